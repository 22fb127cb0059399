"""The steps from an image and an instruction to masks. Imports no ROS, no torch and no model library."""
