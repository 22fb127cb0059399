"""`segzero doctor`: what is here, what is missing, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator

from segzero_ros.core.contract import SegzeroError
from segzero_ros.profiles import list_profiles, load_profile

Line = tuple[str, str, str]  # "ok", "note" or "bad"; what; advice
LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "PyYAML", "rosbags-image", "safetensors", "transformers")


def run(profile: str | None) -> int:
    """Prints one line per check; 1 if something that everybody needs is missing."""
    lines = [*_python(), *_torch(), *_ros(), *_checkpoints(profile)]
    for mark, what, advice in lines:
        print(f"[{mark:^4}] {what}" + (f"\n       -> {advice}" if advice else ""))
    return int(any(mark == "bad" for mark, _, _ in lines))


def _python() -> Iterator[Line]:
    yield "ok", f"Python {platform.python_version()} at {sys.executable}", ""
    for name in LIBRARIES:
        try:
            yield "ok", f"{name} {importlib.metadata.version(name)}", ""
        except importlib.metadata.PackageNotFoundError:
            yield "bad", f"{name} is missing", f"pip install {name}"


def _torch() -> Iterator[Line]:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        yield (
            "bad",
            f"torch cannot be imported: {error}",
            "pip install torch, or run the node with python:=VENV/bin/python",
        )
        return
    yield "ok", f"torch {torch.__version__}", ""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        yield "ok", f"GPU {torch.cuda.get_device_name()}: {free / 1e9:.1f} of {total / 1e9:.1f} GB free", ""
    else:
        yield "note", "no CUDA device", "enough for the profile demo; a 7B model in bfloat16 wants about 18 GB of one"


def _ros() -> Iterator[Line]:
    try:
        importlib.import_module("rclpy")
    except ImportError:
        yield (
            "note",
            "rclpy is not here",
            "source /opt/ros/DISTRO/setup.bash to run the node; the command works without",
        )
        return
    yield "ok", f"rclpy (ROS_DISTRO={os.environ.get('ROS_DISTRO', 'not set')})", ""
    for name, advice in (
        ("segzero_msgs", "colcon build, then source install/setup.bash"),
        ("vision_msgs", "rosdep install; without it there is no ~/detections"),
        ("message_filters", "rosdep install; examples/consumer.py wants it"),
    ):
        try:
            importlib.import_module(name)
            yield "ok", name, ""
        except ImportError:
            yield "note", f"{name} is not here", advice


def _checkpoints(profile: str | None) -> Iterator[Line]:
    from segzero_ros.models import checkpoints

    for p in [load_profile(profile)] if profile else list_profiles():
        for role, name in (("reasoner", p.reasoner), ("segmenter", p.segmenter)):
            try:
                checkpoints.resolve(name, role, offline=True)
                yield "ok", f"{p.name}: {role} {name}", ""
            except SegzeroError as error:
                advice = "it is fetched when first used" if "/" in name else error.message
                yield "note", f"{p.name}: {role} {name} is not on this disk", advice
            except ImportError as error:
                yield "bad", f"{p.name}: {error}", "pip install huggingface_hub"
