"""What a topic says about an answer: pure functions. vision_msgs is no wheel, so its messages are stood in for here."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from segzero_ros.core.contract import Instance, Segmentation, Status
from segzero_ros.core.geometry import pack
from segzero_ros.ros import products
from segzero_ros.ros.products import Reply

HEADER = Header(frame_id="camera")


class Message(types.SimpleNamespace):
    """A message with whatever fields it is given."""


def detection(header: Any) -> Message:
    center = Message(position=Message(x=0.0, y=0.0))
    return Message(header=header, id="", results=[], bbox=Message(center=center, size_x=0.0, size_y=0.0))


@pytest.fixture
def vision_msgs(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("vision_msgs.msg")
    module.Detection2D = detection
    module.Detection2DArray = lambda header: Message(header=header, detections=[])
    module.ObjectHypothesisWithPose = lambda: Message(hypothesis=Message(class_id="", score=0.0))
    module.LabelInfo = Message
    module.VisionClass = Message
    monkeypatch.setitem(sys.modules, "vision_msgs", types.ModuleType("vision_msgs"))
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", module)


def reply(count: int, height: int = 48, width: int = 64) -> Reply:
    mask = np.zeros((height, width), bool)
    mask[10:20, 5:25] = True
    box = (5.0, 10.0, 25.0, 20.0)
    found = tuple(Instance(n, f"mug {n}", 0.5, pack(mask), box, box, (), 200) for n in range(1, count + 1))
    return Reply(HEADER, None, None, Segmentation(Status.OK, "", "mugs", height, width, found), "7")


def test_a_detection_has_no_id_while_nothing_tracks_and_its_class_is_looked_up_in_label_info(vision_msgs: None) -> None:
    r = reply(2)
    found = products.detections(r).detections
    names = {c.class_id: c.class_name for c in products.label_info(r).class_map}
    assert [d.id for d in found] == ["", ""]
    assert [names[int(d.results[0].hypothesis.class_id)] for d in found] == ["mug 1", "mug 2"]
    assert (found[0].bbox.center.position.x, found[0].bbox.center.position.y) == (15.0, 15.0)
    assert (found[0].bbox.size_x, found[0].bbox.size_y) == (20.0, 10.0)


@pytest.mark.parametrize(("count", "encoding", "reserved"), [(254, "mono8", 255), (255, "16UC1", 65535)])
def test_the_value_for_unlabelled_is_never_an_instance_s(
    vision_msgs: None, count: int, encoding: str, reserved: int
) -> None:
    r = reply(count)
    image = products.label_mask(r)
    assert isinstance(image, Image) and image.encoding == encoding
    values = np.frombuffer(image.data, np.uint8 if encoding == "mono8" else np.uint16)
    assert reserved not in values and set(values) == {0, 1}, "the first of equals wins"
    classes = {c.class_id: c.class_name for c in products.label_info(r).class_map}
    assert classes[reserved] == "unlabelled" and classes[0] == "background" and len(classes) == count + 2


def test_without_a_frame_there_is_nothing_to_show() -> None:
    r = Reply(HEADER, None, None, Segmentation(Status.NO_IMAGE, "none", "mug", 0, 0), "7")
    for make in (
        products.mask,
        products.label_mask,
        products.overlay,
        products.overlay_compressed,
        products.answer_image,
    ):
        assert make(r) is None
    assert products.source_image(r) is None and products.camera_info(r) is None
    assert products.result(r).status == products.result(r).STATUS_NO_IMAGE
