"""README.md says what is there: its snippets run, its names, files and links exist."""

from __future__ import annotations

import ast
import dataclasses
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile

from segzero_ros.client import Answer, Object
from segzero_ros.core.contract import Instance, Segmentation, Status
from segzero_ros.launching import ARGUMENTS
from segzero_ros.profiles import list_profiles

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
READER, ASKING, LIBRARY = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def test_the_library_s_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    image = np.full((480, 640, 3), 120, np.uint8)
    image[200:260, 300:360] = (200, 30, 30)
    scope: dict[str, Any] = {"image": image}
    exec(compile(ast.parse(LIBRARY), "README.md", "exec"), scope)
    assert scope["result"].status in (Status.OK, Status.NO_OBJECT)


def test_the_reader_s_snippet_reads_a_real_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from std_msgs.msg import Header

    from segzero_ros.core.geometry import pack
    from segzero_ros.ros.messages import to_result_msg

    mask = np.zeros((720, 1280), bool)
    mask[100:150, 200:300] = True
    mug = Instance(1, "red mug", 0.9, pack(mask), (200.0, 100.0, 300.0, 150.0), None, (), int(mask.sum()))
    result = Segmentation(Status.OK, "1 object", "the red mug", 720, 1280, (mug,))
    heard = threading.Event()

    def spin(node: Any) -> None:
        """Instead of rclpy.spin: until the answer has been read."""
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        (subscription,) = (s for s in node.subscriptions if s.topic_name == "/segzero/result")
        speak = node.create_publisher(subscription.msg_type, "/segzero/result", latched)
        speak.publish(to_result_msg(result, Header(frame_id="camera"), None, "7"))  # before it listens: latched
        callback = subscription.callback

        def once(message: Any) -> None:
            callback(message)
            heard.set()

        subscription.callback = once
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not heard.is_set():
            executor.spin_once(timeout_sec=1.0)
        executor.shutdown()
        node.destroy_node()

    monkeypatch.setattr(rclpy, "spin", spin)
    try:
        exec(compile(READER, "README.md", "exec"), {})
    finally:
        rclpy.try_shutdown()
    said = capsys.readouterr().out
    assert "the red mug -> 1 object" in said and "1 red mug" in said and "5000 pixels" in said


def test_the_asking_snippet_names_what_an_answer_has() -> None:
    used = {n.attr for n in ast.walk(ast.parse(ASKING)) if isinstance(n, ast.Attribute)}
    fields = {f.name for kind in (Answer, Object) for f in dataclasses.fields(kind)}
    assert used <= fields | {"standalone", "ask", "result", "mask", "sum"}


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!http|#)[^)#]+)", TEXT):
        assert (ROOT / target).exists(), target
    headings = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", TEXT, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings


def test_every_profile_and_launch_argument_is_there() -> None:
    assert {p.name for p in list_profiles()} <= set(re.findall(r"^\| `([a-z0-9.-]+)` \|", TEXT, re.M))
    launch = TEXT[TEXT.index("## Launch") : TEXT.index("### Large frames")]
    assert set(ARGUMENTS) <= set(re.findall(r"`([a-z_]+)`", launch))


def test_every_topic_of_the_outputs_is_there() -> None:
    source = (ROOT / "segzero_ros/ros/topics.py").read_text(encoding="utf-8")
    topics = set(re.findall(r'^ +(?:Output|_small|_large)\("(~/[a-z0-9_/]+)"', source, re.M))
    assert topics and all(f"`{topic}`" in TEXT for topic in topics)


def test_every_make_target_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z-]+)`", TEXT)) <= targets


def test_every_room_of_the_architecture_s_drawing_is_a_file() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawing = page[page.index("segzero_ros/") : page.index("Imports run")]
    drawn = set(re.findall(r"\b([a-z0-9_]+\.py)\b", drawing))
    there = {p.name for p in (ROOT / "segzero_ros").rglob("*.py") if not p.name.startswith("__")}
    adapters = {p.name for p in (ROOT / "segzero_ros" / "models").glob("*.py")}
    assert drawn <= there and there - adapters <= drawn
