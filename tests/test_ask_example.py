"""examples/ask.py in a process of its own, against a small server; examples/agent.md against the action's fields."""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from segzero_msgs.action import Segment
from segzero_msgs.msg import GraspHint, Instance, Segmentation

from tests.test_client import PATIENCE, end, serve

ROOT = Path(__file__).resolve().parent.parent
ASK = [sys.executable, str(ROOT / "examples" / "ask.py"), "--node", "teller"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
PAGE = (ROOT / "examples" / "agent.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    process = serve("teller")
    yield
    end(process)


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ASK, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)


def start(*arguments: str) -> subprocess.Popen[str]:
    """Once it hears the model think."""
    process = subprocess.Popen([*ASK, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any("box 10,5 30,15" in line for line in process.stdout)
    return process


def test_what_is_thought_and_found_is_printed_and_the_code_says_found(server: None) -> None:
    done = ask("the mug", "--3d")
    assert done.returncode == 0, done.stderr
    assert "reasoning" in done.stdout and "box 10,5 30,15" in done.stdout and "OK: one object" in done.stdout
    assert "1. the [2J mug: box 10,5,30,15, 200 px, 0.90" in done.stdout
    assert "centroid (0.500, 0.000, 0.100) m in 'base', size 0.100 x 0.200 x 0.300 m" in done.stdout


def test_no_control_code_of_a_model_or_of_its_own_reaches_a_file(server: None) -> None:
    done = ask("the mug")
    assert done.stdout.isascii() and all(c.isprintable() or c == "\n" for c in done.stdout)


def test_no_control_code_of_a_model_reaches_a_terminal(server: None) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*ASK, "the mug"], env=ENVIRONMENT, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(PATIENCE) == 0
    assert set(re.findall(rb"\x1b\[\d*\w", shown)) <= {b"\x1b[2K", b"\x1b[2m", b"\x1b[0m"}
    assert b"OK: one object" in shown


@pytest.mark.parametrize(("words", "code"), [("nothing", 3), ("fail", 1), ("reject", 1), ("a status of tomorrow", 1)])
def test_the_exit_code_says_how_it_ended(server: None, words: str, code: int) -> None:
    assert ask(words).returncode == code


def test_prompts_picture_and_time_go_into_the_goal(server: None, tmp_path: Path) -> None:
    picture = tmp_path / "photo.png"
    cv2.imwrite(str(picture), np.zeros((4, 6, 3), np.uint8))
    done = ask("echo", "--box", "1,2,3,4", "--image", str(picture), "--timeout", "2.5", "--not-before", "now")
    assert done.returncode == 0, done.stderr
    assert re.search(r"OK: 1,2,3,4 \[\] \[\] 0 6x4 \d{9,} 2.5", done.stdout), done.stdout
    assert "OK: 0,0,0,0 [(5.0, 6.0)] [True] 0 0x0" in ask("echo", "--point", "5,6").stdout


def test_a_picture_that_is_none_is_one_sentence(server: None) -> None:
    done = ask("the mug", "--image", "/nowhere.jpg")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "/nowhere.jpg" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--point", "3"], ["--box", "1,2,3"], ["--box", "a,b,c,d"]])
def test_what_is_no_question_is_a_usage_error(arguments: list[str]) -> None:
    done = ask(*arguments)
    assert done.returncode == 2 and "usage" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_cancels_the_goal_and_waits_for_the_nodes_last_word(server: None) -> None:
    process = start("for ever")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert re.search(r"CANCELLED \d+ ms after Ctrl-C\nCANCELLED: cancelled by its client", said), said


def test_a_second_ctrl_c_leaves_though_the_node_says_nothing() -> None:
    deaf = serve("deaf")
    try:
        process = start("for ever", "--node", "deaf")
        deaf.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None and any("Ctrl-C again leaves" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
    finally:
        deaf.kill()
        deaf.wait()


# -- the page for agents

CALLS: list[Any] = [json.loads(code) for code in re.findall(r"```json send_action_goal\n(.*?)```", PAGE, re.S)]


def fill(message: Any, values: dict[str, Any]) -> Any:
    """As rosbridge does it: by name; the message's own setters check the types."""
    kinds = message.get_fields_and_field_types()
    for name, value in values.items():
        package, _, kind = re.sub(r"sequence<(.*)>", r"\1", kinds[name]).partition("/")
        if kind:
            made = getattr(importlib.import_module(f"{package}.msg"), kind)
            value = [fill(made(), v) for v in value] if isinstance(value, list) else fill(made(), value)
        setattr(message, name, value)
    return message


@pytest.mark.parametrize("call", CALLS)
def test_each_call_of_the_page_is_a_goal_of_the_action(call: dict[str, Any]) -> None:
    assert call.keys() == {"action_name", "action_type", "goal", "timeout"}, "the tool's own arguments"
    assert (call["action_name"], call["action_type"]) == ("/segzero/ask", "segzero_msgs/action/Segment")
    goal = fill(Segment.Goal(), call["goal"])
    assert goal != Segment.Goal()
    assert goal.timeout < call["timeout"], "the tool must not give up first"


def test_each_field_of_the_answer_that_the_page_names_is_there() -> None:
    reply = {"result": Segment.Result}

    def leaf(message: Any, names: list[str]) -> None:
        for name in names:
            assert name in message.get_fields_and_field_types(), names
            message = getattr(message, name)

    for names in re.findall(r"`result\.result\.([\w.]+)`", PAGE):
        leaf(reply["result"]().result, names.split("."))
    rows = [line for line in PAGE.splitlines() if "instances[]" in line or "grasp_hints[]" in line]
    assert len(rows) == 4
    for row in rows:
        kind = Instance if "instances[]" in row else GraspHint
        for names in re.findall(r"`(?:result\.result\.\w+\[\])?\.([\w.]+)`", row):
            leaf(kind(), names.split("."))


def test_the_numbers_that_the_page_gives_for_states_are_the_messages_own() -> None:
    assert (Segmentation.STATUS_OK, Segmentation.STATUS_NO_OBJECT, Instance.STATUS_3D_OK) == (0, 1, 1)
    assert "0 OK, 1 NO_OBJECT" in PAGE and "| 1: what follows holds" in PAGE


def test_the_page_says_that_it_was_not_run() -> None:
    assert "**Not run here.**" in PAGE
