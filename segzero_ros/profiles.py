"""Public: the families of checkpoints. `load_profile("seg-zero")`, or the path of a YAML file of your own."""

from segzero_ros.core.profiles import Profile, ProfileError, list_profiles, load_profile

__all__ = ["Profile", "ProfileError", "list_profiles", "load_profile"]
