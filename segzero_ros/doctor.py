"""The command `segzero doctor`: what is here, what is missing or does not fit, and what to do about it.

The rest of the package is imported where it is needed only: this command is for installations without NumPy, too.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzero_ros.core.text import clean, first_line, one_line
from segzero_ros.imports import Trial, try_imports
from segzero_ros.models.hub_cache import cache_folder
from segzero_ros.ros.main import broken_rclpy

if TYPE_CHECKING:
    from segzero_ros.profiles import Profile

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
    "httpx2": ("httpx2", "2.0", "3"),
    "peft": ("peft", "0.18", ""),
    "llguidance": ("llguidance", "1.7", ""),
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl": ("transformers", "5.5", "6"),  # the rest is imported late
}
NEED = 1.25  # memory that a profile wants for each byte of its weights: an estimate
ROS = {
    "segzero_msgs.msg": "colcon build, then source install/setup.bash",
    "vision_msgs.msg": "rosdep install; without it there is no ~/detections",
    "message_filters": "rosdep install; examples/consumer.py wants it",
    "tf2_ros": "apt install ros-$ROS_DISTRO-tf2-ros-py; without it there is no target_frame",
}
# NVIDIA's boards run programs that were made for them alone (CUDA's guide, binary compatibility): Nano, TX2, Xavier,
# Orin, Thor.
BOARDS = {(5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0)}
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
RANGES = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")
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
    parser.add_argument("--server", metavar="URL", help="check a server instead: ask it for what drawn pictures show")
    parser.add_argument("--timeout", type=_seconds, default=600.0, help="seconds for a server's checks (default: 600)")
    parser.add_argument("--json", action="store_true", help="the checks as one JSON list on standard output")


def run(arguments: argparse.Namespace) -> int:
    """One line per check; 1 if something that everybody needs is missing. Raises ProfileError for the named profile."""
    found = []
    checks = _checks_of_server(arguments) if arguments.server is not None else _checks(arguments.profile)
    for mark, what, advice in checks:
        what, advice = clean(what), clean(advice)
        found.append({"mark": mark, "what": what, "advice": advice})
        if not arguments.json:
            print(f"[{mark:^4}] {what}" + (f"\n       -> {advice}" if advice else ""), flush=True)
    if arguments.json:
        print(json.dumps(found))
    return int(any(line["mark"] == "bad" for line in found))


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError("a number above 0 is wanted")
    return seconds


def _checks_of_server(arguments: argparse.Namespace) -> Iterator[Line]:
    """Whoever names no profile means the one that `segment` takes."""
    from segzero_ros.core.profiles import load_profile
    from segzero_ros.server_doctor import check_server

    return check_server(arguments.server, load_profile(arguments.profile or "demo"), arguments.timeout)


def _checks(name: str | None) -> Iterator[Line]:
    profile = _load(name) if name else None
    trials = try_imports([*LIBRARIES, "torch", "rclpy", *ROS])
    yield from check_python(trials)
    torch, lines = import_torch(trials["torch"])
    yield from lines
    if torch is not None:
        yield from check_torch(torch)
    yield from check_ros(os.environ, trials)
    yield from check_hub(os.environ)
    try:
        importlib.import_module("segzero_ros.profiles")
        importlib.import_module("segzero_ros.models.checkpoints")
    except Exception as error:
        yield "bad", f"the checkpoints cannot be looked at: {first_line(error)}", "first what is bad above"
        return
    yield from check_checkpoints(profile)
    if profile is not None and torch is not None:
        yield from check_memory(torch, profile)


def _load(name: str) -> Profile | None:
    """None where the libraries that read profiles are missing, which is told later."""
    try:
        from segzero_ros.profiles import load_profile
    except Exception:
        return None
    return load_profile(name)


def check_python(trials: Mapping[str, Trial]) -> Iterator[Line]:
    version = sys.version_info[:2]
    known = (3, 10) <= version <= (3, 12)
    advice = "" if known else "3.10 to 3.12 are tested"
    yield "ok" if known else "note", f"Python {platform.python_version()} at {sys.executable}", advice
    for module, (distribution, lowest, too_new) in LIBRARIES.items():
        yield check_library(module, distribution, lowest, too_new, trials[module])


def check_library(module: str, distribution: str, lowest: str, too_new: str, trial: Trial | None = None) -> Line:
    """Imported, not only looked up: a wheel can be there and broken, or another distribution can bring the module."""
    wanted = f"'{distribution}>={lowest}{',<' + too_new if too_new else ''}'"
    trial = trial or try_imports([module])[module]
    if not trial.works and trial.lacks and f"{module}.".startswith(f"{trial.lacks}."):
        return "bad", f"{distribution} is missing", f"pip install {wanted}"
    if not trial.works:
        install = f"pip install {trial.lacks}" if trial.lacks else f"pip install --force-reinstall {wanted}"
        return "bad", f"{distribution} cannot be imported: {one_line(trial.reason)}", install
    version = version_of(distribution, trial)
    if version and not lowest_holds(version, lowest):
        return "bad", f"{distribution} {version} is too old", f"pip install {wanted}"
    if version and too_new and lowest_holds(version, too_new):
        return "bad", f"{distribution} {version} is too new", f"pip install {wanted}"
    return "ok", f"{distribution} {version or '(version not stated)'}", ""


def version_of(distribution: str, trial: Trial) -> str:
    """Of what is imported, whoever brought it: pip's record may be another's."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return trial.version or importlib.metadata.version(distribution)
    return ""


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


def import_torch(trial: Trial) -> tuple[Any, list[Line]]:
    advice = "pip install torch, or run the node with python:=VENV/bin/python"
    if not trial.works:
        return None, [("bad", f"torch cannot be imported: {one_line(trial.reason)}", advice)]
    torch = importlib.import_module("torch")
    if not lowest_holds(torch.__version__, TORCH):
        return None, [("bad", f"torch {torch.__version__} is too old", f"pip install 'torch>={TORCH}'")]
    return torch, [("ok", f"torch {torch.__version__}", "")]


def check_torch(torch: Any) -> Iterator[Line]:
    """torch: the module. What it sees, and whether it was built for that."""
    if not torch.cuda.is_available():
        built = getattr(torch.version, "cuda", None)
        if built:
            yield "note", f"torch is built for CUDA {built} and sees no GPU", "is the driver there (nvidia-smi)?"
        advice = "enough for the profile demo; a 7B model in bfloat16 wants about 18 GB of one"
        yield "note", "no CUDA device", advice
        with contextlib.suppress(ImportError):  # without NumPy, which is told above
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
    free, total = torch.cuda.mem_get_info()
    memory = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    listed = bool(getattr(torch.version, "hip", None)) or fits(built, major, minor)  # AMD's names are others
    advice = "install the torch wheel for this GPU (Jetson: NVIDIA's own index)"
    if failure := why_not_computing(torch):
        yield "bad", f"{name} cannot run this torch, which is built for {', '.join(built)}: {failure}", advice
    elif not listed:
        yield "note", f"{name} is not among those that this torch is built for ({', '.join(built)}); {memory}", advice
    else:
        yield "ok", f"{name}: {memory}", ""
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        advice = "answers are slow; float16 overflows in some models (every token is then '!'), which is said"
        yield "note", f"{name} computes bfloat16 by emulation only", advice


def why_not_computing(torch: Any) -> str:
    """Adds two numbers on the GPU, which says more than the list of what torch is built for; "" if it can."""
    try:
        total = (torch.ones(2, device="cuda") + 1).sum().item()
        return "" if total == 4 else f"2 + 2 is {total} there"
    except Exception as error:
        return first_line(error)


def fits(built: list[str], major: int, minor: int) -> bool:
    """Machine code runs on its own generation from its minor version on; PTX (compute_...) on all later ones.

    Code with an `a` runs on that GPU alone, and so does all code that a board of NVIDIA's has a part in.
    """
    for arch in built:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if not found:
            continue
        made = int(found[2]), int(found[3])
        if found[4] == "a" or (found[1] == "sm" and {made, (major, minor)} & BOARDS):
            runs = made == (major, minor)
        elif found[1] == "compute" and not found[4]:
            runs = made <= (major, minor)
        else:
            runs = made[0] == major and made[1] <= minor
        if runs:
            return True
    return False


def check_ros(environment: Mapping[str, str], trials: Mapping[str, Trial]) -> Iterator[Line]:
    rclpy = trials["rclpy"]
    if not rclpy.works:
        missing = rclpy.lacks == "rclpy"
        what = "rclpy is not here" if missing else f"rclpy cannot be imported: {one_line(rclpy.reason)}"
        advice = "source /opt/ros/DISTRO/setup.bash to run the node; the command works without"
        yield "note" if missing else "bad", what, advice
        return
    distro = environment.get("ROS_DISTRO", "")
    yield "ok", f"rclpy at {Path(rclpy.file).parent} (ROS_DISTRO={distro or 'not set'})", ""
    if why := broken_rclpy(rclpy.file):
        yield "bad", why, "apt upgrade"
    if distro and "/opt/ros/" in rclpy.file and f"/opt/ros/{distro}/" not in rclpy.file:
        yield "bad", f"ROS_DISTRO is {distro}, but rclpy is another's", "open a new shell and source one setup.bash"
    for module, advice in ROS.items():
        name, trial = module.partition(".")[0], trials[module]
        if trial.works:
            yield "ok", name, ""
        elif trial.lacks == name:
            yield "note", f"{name} is not here", advice
        else:
            yield "bad", f"{name} cannot be imported: {one_line(trial.reason)}", "build it anew for this Python"
    yield from check_discovery(environment)


def check_discovery(environment: Mapping[str, str]) -> Iterator[Line]:
    """What decides who hears whom: both sides must have the same."""
    for name in DISCOVERY:
        value = environment.get(name)
        if value is None:
            continue
        if name == "ROS_AUTOMATIC_DISCOVERY_RANGE" and value not in ("", *RANGES):
            yield "bad", f"{name}={value[:80]!r} is no range", f"one of {', '.join(RANGES)}"
        elif name == "RMW_IMPLEMENTATION" and value and not _has_middleware(value, environment):
            advice = "install it (apt install ros-$ROS_DISTRO-rmw-...), or unset it: no node starts without"
            yield "bad", f"{name}={value[:80]!r} is not installed", advice
        elif name == "ROS_DOMAIN_ID" and value and not (value.isascii() and value.isdigit() and int(value) <= 232):
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


def _has_middleware(name: str, environment: Mapping[str, str]) -> bool:
    """By the index that ROS 2 itself looks into; where there is none, nothing is known."""
    prefixes = [Path(p) for p in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    index = "share/ament_index/resource_index/rmw_typesupport"
    return not prefixes or ("/" not in name and any((p / index / name).is_file() for p in prefixes))


def check_hub(environment: Mapping[str, str]) -> Iterator[Line]:
    """Where checkpoints are kept, and what stands between here and the hub."""
    for name in HUB:
        value = environment.get(name) or environment.get(name.lower())
        if value:
            shown = value.rpartition("@")[2] if "PROXY" in name else value  # without a password
            socks = "PROXY" in name and value.startswith("socks")
            advice = "pip install socksio to fetch through it; what is on the disk needs no network"
            yield ("note", f"{name}={shown[:200]}", advice) if socks else ("ok", f"{name}={shown[:200]}", "")
    cache = cache_folder(environment)
    there = cache
    while not there.exists() and there != there.parent:
        there = there.parent
    if not os.access(there, os.W_OK):
        yield "note", f"the hub's cache {cache} cannot be written", "set HF_HOME to a folder that can"
        return
    yield "ok", f"the hub's cache {cache}: {shutil.disk_usage(there).free / 1e9:.0f} GB free on its disk", ""


def check_checkpoints(profile: Profile | None) -> Iterator[Line]:
    from segzero_ros.core.contract import SegzeroError
    from segzero_ros.models import checkpoints
    from segzero_ros.models.server_address import is_address, shown_address
    from segzero_ros.profiles import ProfileError, list_profiles

    try:
        profiles = [profile] if profile else list_profiles()
    except ProfileError as error:
        yield "bad", str(error), "install segzero_ros anew"
        return
    for p in profiles:
        for role, name, subfolder in parts_of(p):
            if is_address(name) and role == "reasoner":
                yield "ok", f"{p.name}: reasoner {shown_address(name)}, a server; it is not asked here", ""
                continue
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
        from segzero_ros.models.server_address import is_address
        from segzero_ros.rehearse.dimensions import find_dimensions
        from segzero_ros.rehearse.machine import free_memory

        device = choose_device("auto")
        size = choose_dtype(profile.dtype, device).itemsize
        roles: tuple[tuple[str, Any], ...] = ((profile.reasoner, "reasoner"), (profile.segmenter, "segmenter"))
        count = 0
        for name, role in roles:
            if is_address(name):  # its memory is another process's
                continue
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
