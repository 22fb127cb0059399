"""`make demo`: the real node with the embedded weights, a recorded camera, six instructions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from segzero_ros.cli import main

ROOT = Path(__file__).resolve().parent.parent


def read(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    pixels = cv2.imread(str(path), flags)
    assert pixels is not None, path
    return pixels


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    # As in a robot developer's shell; the demo has a domain of its own and hears its own processes only.
    shell = {"ROS_DOMAIN_ID": "robot1", "ROS_DISCOVERY_SERVER": "10.0.0.1:11811", "RMW_IMPLEMENTATION": "rmw_zenoh_cpp"}
    command = [sys.executable, str(ROOT / "examples/demo.py"), "--out", str(folder)]
    ended = subprocess.run(command, env=os.environ | shell, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return folder


def test_every_instruction_has_an_answer_and_a_picture(out: Path) -> None:
    answers = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [a["status"] for a in answers] == ["OK"] * 5 + ["NO_OBJECT"]
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == 6
    for picture in pictures:
        height, width = read(picture).shape[:2]
        assert width == 960 and height > 480  # source and overlay side by side, with a caption


def test_the_answers_are_about_what_was_asked(out: Path) -> None:
    answers = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    labels = {a["instruction"]: sorted(i["label"] for i in a["instances"]) for a in answers}
    assert labels["something to drink from"] == ["white mug"]
    assert labels["the yellow duck"] == ["yellow duck"]
    assert labels["both bricks"] == ["black brick", "purple brick"]
    assert labels["something to kick"] == ["white soccer ball"]
    assert labels["the brick that is not black"] == ["purple brick"]
    assert all("The target is" in a["reasoning"] for a in answers)


def test_the_command_segments_a_picture(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = read(next(out.glob("2_*.png")))[:480, :480]
    cv2.imwrite(str(tmp_path / "photo.png"), picture)
    arguments = [str(tmp_path / "photo.png"), "the yellow duck", "--out", str(tmp_path / "mask.png"), "--json"]
    assert main(["segment", *arguments]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [i["label"] for i in answer["instances"]] == ["yellow duck"]
    mask = read(tmp_path / "mask.png", cv2.IMREAD_UNCHANGED)
    assert mask.shape == (480, 480) and set(mask.ravel().tolist()) == {0, 255}
    yellow = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)
    inside = yellow[mask > 0]
    assert ((inside[:, 0] > 20) & (inside[:, 0] < 40)).mean() > 0.8  # the mask is where the picture is yellow
