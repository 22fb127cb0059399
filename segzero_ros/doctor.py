"""The command `segzero doctor`: what is here, what is missing or does not fit, and what to do about it."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segzero_ros.core.contract import SegzeroError
from segzero_ros.core.text import clean, first_line
from segzero_ros.models import hub
from segzero_ros.profiles import Profile, ProfileError, list_profiles, load_profile

Line = tuple[str, str, str]  # "ok", "note" or "bad"; what; advice
# module -> (distribution that brings it, lowest version, first version that is too new). setup.py says the same.
LIBRARIES = {
    "numpy": ("numpy", "1.26", ""),
    "cv2": ("opencv-python-headless", "4.8", "5"),
    "PIL": ("pillow", "10", ""),
    "yaml": ("PyYAML", "6", ""),
    "rosbags": ("rosbags", "0.11", ""),
    "rosbags.image": ("rosbags-image", "0.10", ""),
    "safetensors": ("safetensors", "0.5", ""),
    "scipy": ("scipy", "1.11", ""),
    "tokenizers": ("tokenizers", "0.20", ""),
    "tqdm": ("tqdm", "4.66", ""),
    "huggingface_hub": ("huggingface_hub", "1.0", ""),
    "peft": ("peft", "0.18", ""),
    "transformers": ("transformers", "5.5", "6"),
}
NEED = 1.25  # memory that a profile wants for each byte of its weights: an estimate
WORK = 2_000_000_000  # bytes beside the weights: keys and values, SAM's features, masks; an estimate
TORCH = "2.5"
# Settings of ROS that decide who hears whom.
DISCOVERY = (
    "ROS_DOMAIN_ID",
    "RMW_IMPLEMENTATION",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_LOCALHOST_ONLY",
    "ROS_STATIC_PEERS",
    "ROS_DISCOVERY_SERVER",
    "ROS_SUPER_CLIENT",
)
FILES = (
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
    "CYCLONEDDS_URI",
    "ZENOH_SESSION_CONFIG_URI",
)
HUB = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("doctor", help="check Python, torch, GPU, ROS and checkpoints")
    parser.add_argument("--profile", help="check this profile's checkpoints and its need of memory")
    parser.add_argument("--json", action="store_true", help="the checks as one JSON list on standard output")


def run(arguments: argparse.Namespace) -> int:
    """One line per check; 1 if something that everybody needs is missing. Raises ProfileError."""
    profile = load_profile(arguments.profile) if arguments.profile else None
    found = []
    for mark, what, advice in _checks(profile):
        what, advice = clean(what), clean(advice)
        found.append({"mark": mark, "what": what, "advice": advice})
        if not arguments.json:
            print(f"[{mark:^4}] {what}" + (f"\n       -> {advice}" if advice else ""), flush=True)
    if arguments.json:
        print(json.dumps(found))
    return int(any(line["mark"] == "bad" for line in found))


def _checks(profile: Profile | None) -> Iterator[Line]:
    yield from check_python()
    torch, lines = import_torch()
    yield from lines
    if torch is not None:
        yield from check_torch(torch)
    yield from check_ros(os.environ)
    yield from check_hub(os.environ)
    yield from check_checkpoints(profile)
    if profile is not None and torch is not None:
        yield from check_memory(torch, profile)


def check_python() -> Iterator[Line]:
    version = sys.version_info[:2]
    known = (3, 10) <= version <= (3, 12)
    advice = "" if known else "3.10 to 3.12 are tested"
    yield "ok" if known else "note", f"Python {platform.python_version()} at {sys.executable}", advice
    for module, (distribution, lowest, too_new) in LIBRARIES.items():
        yield check_library(module, distribution, lowest, too_new)


def check_library(module: str, distribution: str, lowest: str, too_new: str) -> Line:
    """Imported, not only looked up: a wheel can be there and broken, or another distribution can bring the module."""
    wanted = f"'{distribution}>={lowest}{',<' + too_new if too_new else ''}'"
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            return "bad", f"{distribution} is missing", f"pip install {wanted}"
        return "bad", f"{distribution} cannot be imported: {first_line(error)}", f"pip install {error.name}"
    except BaseException as error:  # of a stranger's module anything
        if isinstance(error, KeyboardInterrupt):
            raise
        return (
            "bad",
            f"{distribution} cannot be imported: {first_line(error)}",
            f"pip install --force-reinstall {wanted}",
        )
    version = version_of(distribution, imported)
    if version and not lowest_holds(version, lowest):
        return "bad", f"{distribution} {version} is too old", f"pip install {wanted}"
    if version and too_new and lowest_holds(version, too_new):
        return "bad", f"{distribution} {version} is too new", f"pip install {wanted}"
    return "ok", f"{distribution} {version or '(version not stated)'}", ""


def version_of(distribution: str, module: Any) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # the system's own, or another distribution of the same module
        return str(getattr(module, "__version__", ""))


def lowest_holds(version: str, lowest: str) -> bool:
    """Whether a version is at least another one, by their numbers."""
    return _numbers(version) >= _numbers(lowest)


def _numbers(version: str) -> tuple[int, ...]:
    out: list[int] = []
    for part in version.split("+")[0].split("."):
        digits = ""
        for c in part:
            if not c.isdigit():
                break
            digits += c
        if not digits:
            break
        out.append(int(digits))
    return tuple(out)


def import_torch() -> tuple[Any, list[Line]]:
    advice = "pip install torch, or run the node with python:=VENV/bin/python"
    try:
        torch = importlib.import_module("torch")
        if not lowest_holds(torch.__version__, TORCH):
            return None, [("bad", f"torch {torch.__version__} is too old", f"pip install 'torch>={TORCH}'")]
    except Exception as error:  # a wheel that does not fit its libraries raises OSError and more
        return None, [("bad", f"torch cannot be imported: {first_line(error)}", advice)]
    return torch, [("ok", f"torch {torch.__version__}", "")]


def check_torch(torch: Any) -> Iterator[Line]:
    """torch: the module. What it sees, and whether it was built for that."""
    if not torch.cuda.is_available():
        built = getattr(torch.version, "cuda", None)
        if built:
            yield "note", f"torch is built for CUDA {built} and sees no GPU", "is the driver there (nvidia-smi)?"
        advice = "enough for the profile demo; a 7B model in bfloat16 wants about 18 GB of one"
        yield "note", "no CUDA device", advice
        from segzero_ros.models.devices import cpu_has_bfloat16

        fast = cpu_has_bfloat16()
        yield "ok", f"this CPU {'computes' if fast else 'does not compute'} bfloat16 itself", ""
        return
    try:
        yield from check_gpu(torch)
    except Exception as error:  # a driver that does not fit
        yield "bad", f"the GPU cannot be asked: {first_line(error)}", "does the driver fit torch's CUDA (nvidia-smi)?"


def check_gpu(torch: Any) -> Iterator[Line]:
    major, minor = torch.cuda.get_device_capability()
    built = list(torch.cuda.get_arch_list())
    name = f"GPU {torch.cuda.get_device_name()} (sm_{major}{minor})"
    if fits(built, major, minor):
        free, total = torch.cuda.mem_get_info()
        yield "ok", f"{name}: {free / 1e9:.1f} of {total / 1e9:.1f} GB free", ""
    else:
        advice = "install the torch wheel for this GPU (Jetson: NVIDIA's own index)"
        yield "bad", f"{name}, and this torch is built for {', '.join(built) or 'no GPU'}", advice
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        advice = "answers are slow; float16 overflows in some models (every token is then '!'), which is said"
        yield "note", f"{name} computes bfloat16 by emulation only", advice


def fits(built: list[str], major: int, minor: int) -> bool:
    """Machine code runs on its own generation from its minor version on; PTX (compute_...) on all later ones."""
    for arch in built:
        kind, _, number = arch.partition("_")
        digits = "".join(c for c in number if c.isdigit())
        if len(digits) < 2:
            continue
        built_major, built_minor = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and built_major == major and built_minor <= minor:
            return True
        if kind == "compute" and (built_major, built_minor) <= (major, minor):
            return True
    return False


def check_ros(environment: Mapping[str, str]) -> Iterator[Line]:
    try:
        rclpy = importlib.import_module("rclpy")
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "rclpy"
        what = "rclpy is not here" if missing else f"rclpy cannot be imported: {first_line(error)}"
        advice = "source /opt/ros/DISTRO/setup.bash to run the node; the command works without"
        yield "note" if missing else "bad", what, advice
        return
    distro = environment.get("ROS_DISTRO", "")
    yield "ok", f"rclpy at {Path(rclpy.__file__ or '').parent} (ROS_DISTRO={distro or 'not set'})", ""
    if distro and "/opt/ros/" in str(rclpy.__file__) and f"/opt/ros/{distro}/" not in str(rclpy.__file__):
        yield "bad", f"ROS_DISTRO is {distro}, but rclpy is another's", "open a new shell and source one setup.bash"
    for name, advice in (
        ("segzero_msgs", "colcon build, then source install/setup.bash"),
        ("vision_msgs", "rosdep install; without it there is no ~/detections"),
        ("message_filters", "rosdep install; examples/consumer.py wants it"),
    ):
        try:
            importlib.import_module(f"{name}.msg" if name.endswith("_msgs") else name)
            yield "ok", name, ""
        except ModuleNotFoundError:
            yield "note", f"{name} is not here", advice
        except Exception as error:
            yield "bad", f"{name} cannot be imported: {first_line(error)}", "build it anew for this Python"
    yield from check_discovery(environment)


def check_discovery(environment: Mapping[str, str]) -> Iterator[Line]:
    """What decides who hears whom: both sides must have the same."""
    for name in DISCOVERY:
        value = environment.get(name)
        if value is None:
            continue
        if name == "ROS_DOMAIN_ID" and not (value.isascii() and value.isdigit() and int(value) <= 232):
            yield "bad", f"{name}={value[:80]!r} is no number from 0 to 232", f"export {name}=0"
        else:
            yield "ok", f"{name}={value[:200]}", ""
    if "RMW_IMPLEMENTATION" not in environment:
        yield "ok", "RMW_IMPLEMENTATION is not set: the distribution's own", ""
    for name in FILES:
        value = environment.get(name)
        path = (value or "").removeprefix("file://")
        if value and not path.lstrip().startswith("<") and not Path(path).is_file():
            yield "bad", f"{name} names {path[:200]}, which is not there", f"unset {name}"
        elif value:
            yield "ok", f"{name}={value[:200]}", ""


def check_hub(environment: Mapping[str, str]) -> Iterator[Line]:
    """Where checkpoints are kept, and what stands between here and the hub."""
    for name in HUB:
        value = environment.get(name) or environment.get(name.lower())
        if value:
            shown = value.rpartition("@")[2] if "PROXY" in name else value  # without a password
            socks = "PROXY" in name and value.startswith("socks")
            advice = "pip install 'httpx[socks]' to fetch through it; what is on the disk needs no network"
            yield ("note", f"{name}={shown[:200]}", advice) if socks else ("ok", f"{name}={shown[:200]}", "")
    cache = hub.cache_folder(environment)
    there = cache
    while not there.exists() and there != there.parent:
        there = there.parent
    if not os.access(there, os.W_OK):
        yield "note", f"the hub's cache {cache} cannot be written", "set HF_HOME to a folder that can"
        return
    yield "ok", f"the hub's cache {cache}: {shutil.disk_usage(there).free / 1e9:.0f} GB free on its disk", ""


def check_checkpoints(profile: Profile | None) -> Iterator[Line]:
    from segzero_ros.models import checkpoints

    try:
        profiles = [profile] if profile else list_profiles()
    except ProfileError as error:
        yield "bad", str(error), "install segzero_ros anew"
        return
    for p in profiles:
        for role, name, subfolder in parts_of(p):
            try:
                checkpoints.resolve(name, role, subfolder=subfolder, offline=True)
                yield "ok", f"{p.name}: {role} {name}", ""
            except SegzeroError as error:
                there = Path(name).expanduser().exists()
                advice = error.message if there or "/" not in name else f"segzero fetch {p.name}"
                what = "cannot be used" if there else "is not on this disk"
                yield "note", f"{p.name}: {role} {name} {what}", advice
            except ImportError as error:
                yield "bad", f"{p.name}: {error}", "pip install huggingface_hub"


def parts_of(profile: Profile) -> Iterator[tuple[str, str, str | None]]:
    """(role, name, subfolder) of each checkpoint."""
    yield "reasoner", profile.reasoner, profile.subfolder
    if profile.adapter:
        yield "adapter", profile.adapter, profile.adapter_subfolder
    yield "segmenter", profile.segmenter, None


def check_memory(torch: Any, profile: Profile) -> Iterator[Line]:
    """Whether the profile's weights and an answer fit, by the parameters that its checkpoints have."""
    try:
        from segzero_ros.models.devices import choose_device, choose_dtype
        from segzero_ros.rehearse.dimensions import find_dimensions
        from segzero_ros.rehearse.machine import free_memory

        device = choose_device("auto")
        size = choose_dtype(profile.dtype, device).itemsize
        roles: tuple[tuple[str, Any], ...] = ((profile.reasoner, "reasoner"), (profile.segmenter, "segmenter"))
        count = 0
        for name, role in roles:
            if name == "embedded":
                from segzero_ros.models.checkpoints import EMBEDDED

                name = str(EMBEDDED / role)
            count += find_dimensions(name, role).parameters
        need, free = count * size * NEED + WORK, free_memory(device)
    except Exception as error:  # no library, no dimensions, no driver
        yield "note", f"{profile.name}: its need of memory is not known", first_line(error)
        return
    what = f"{profile.name} wants about {need / 1e9:.1f} GB on {device} ({count / 1e9:.2f} G parameters)"
    if need > free:
        yield "note", f"{what}, and {free / 1e9:.1f} are free", "a smaller profile; `segzero rehearse` measures it"
    else:
        yield "ok", f"{what}; {free / 1e9:.1f} are free", ""
