"""The command `segzero` as a process: what works without ROS, torch and a model, and one answer with them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COMMAND = Path(sys.executable).with_name("segzero")
TORCH = importlib.util.find_spec("torch") is not None


def segzero(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(COMMAND), *arguments], capture_output=True, text=True)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.fromarray(np.full((48, 64, 3), 128, np.uint8)).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def test_it_explains_itself() -> None:
    shown = segzero("--help")
    assert shown.returncode == 0 and all(name in shown.stdout for name in ("segment", "doctor", "profiles"))
    assert segzero("--version").stdout.startswith("segzero_ros ")


def test_it_lists_the_profiles() -> None:
    shown = segzero("profiles")
    assert shown.returncode == 0 and "vision-reasoner" in shown.stdout


def test_doctor_names_what_is_missing() -> None:
    """Without torch its verdict is bad; without ROS it is not."""
    shown = segzero("doctor", "--profile", "demo")
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in shown.stdout
    assert shown.returncode == (0 if TORCH else 1), shown.stdout
    assert ("torch cannot be imported" in shown.stdout) != TORCH


@pytest.mark.parametrize(
    "arguments",
    [(), ("fly",), ("segment",), ("segment", "nothing.png", "a mug"), ("segment", "PHOTO", "a mug", "--profile", "x")],
)
def test_wrong_use_is_a_sentence_and_exit_2(arguments: tuple[str, ...], photo: str) -> None:
    shown = segzero(*(photo if a == "PHOTO" else a for a in arguments))
    assert shown.returncode == 2 and shown.stderr and "Traceback" not in shown.stderr


@pytest.mark.skipif(not TORCH, reason="no torch here")
def test_the_embedded_model_answers(photo: str) -> None:
    shown = segzero("segment", photo, "a mug", "--json", "--device", "cpu")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["status"] in ("OK", "NO_OBJECT")
