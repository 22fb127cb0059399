"""An answer as messages and as JSON: nothing is lost, and no text of a model breaks them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message, serialize_message
from segzero_msgs.msg import Instance as InstanceMsg
from segzero_msgs.msg import Mask
from segzero_msgs.msg import Segmentation as SegmentationMsg
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from segzero_ros.core import contract
from segzero_ros.core.contract import Instance, Segmentation, Status, Timing
from segzero_ros.core.geometry import mask_box, pack
from segzero_ros.core.space import Box3D, Camera, Hint, Lifted, Pose, Scene, Status3D
from segzero_ros.ros.messages import result_json, to_result_msg

HEADER = Header(stamp=Time(sec=1234567890, nanosec=999999999), frame_id="camera/färbung ✓")
BoolMask = NDArray[np.bool_]


def found(index: int, mask: BoolMask, **more: Any) -> Instance:
    prompt = (1.5, 2.0, 9.0, 8.25)
    box = mask_box(mask) or prompt
    return Instance(index, f"object {index}", 0.75, pack(mask), box, prompt, ((3.0, 4.5),), int(mask.sum()), **more)


def rectangle(x1: int, y1: int, x2: int, y2: int, height: int = 30, width: int = 40) -> BoolMask:
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def answer(*masks: BoolMask, **more: Any) -> Segmentation:
    instances = tuple(found(n, mask) for n, mask in enumerate(masks, 1))
    timing = Timing(0.5, 0.25, 0.125, 2.0, 1.0, 0.0625, 4.0, 100, 50, 7)
    whole = Segmentation(
        Status.OK, "found", "the mugs", 30, 40, instances, "I see two.", "[...]", timing, "reasoner + segmenter"
    )
    return replace(whole, **more)


def sent(result: Segmentation, camera_info: CameraInfo | None = None) -> SegmentationMsg:
    """As it arrives: through the middleware's own serialization."""
    message = to_result_msg(result, HEADER, camera_info, "request 7")
    return deserialize_message(serialize_message(message), SegmentationMsg)


def mask_of(message: Mask, height: int, width: int) -> BoolMask:
    """What a subscriber does with a mask."""
    whole = np.zeros((height, width), bool)
    if message.encoding == Mask.PNG:
        crop = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert crop is not None
        assert crop.dtype == np.uint8 and crop.shape == (message.height, message.width) and set(crop.flat) <= {0, 255}
        x, y = message.x_offset, message.y_offset
        whole[y : y + message.height, x : x + message.width] = crop > 0
    return whole


def test_an_answer_with_two_instances_arrives_whole() -> None:
    first, second = rectangle(2, 3, 10, 9), rectangle(20, 0, 40, 30)
    info = CameraInfo(header=HEADER, width=40, height=30, k=[100.0, 0, 20, 0, 100, 15, 0, 0, 1])
    msg = sent(answer(first, second), info)
    assert (msg.header, msg.reasoned_stamp, msg.camera_info) == (HEADER, HEADER.stamp, info)
    assert (msg.request_id, msg.instruction, msg.message) == ("request 7", "the mugs", "found")
    assert (msg.status, msg.source) == (SegmentationMsg.STATUS_OK, SegmentationMsg.SOURCE_REASONED)
    assert (msg.reasoning, msg.answer, msg.model) == ("I see two.", "[...]", "reasoner + segmenter")
    assert (msg.height, msg.width) == (30, 40)
    assert [(i.index, i.label, i.score, i.area) for i in msg.instances] == [
        (1, "object 1", 0.75, 48),
        (2, "object 2", 0.75, 600),
    ]
    for instance, mask in zip(msg.instances, (first, second), strict=True):
        roi, box = instance.roi, instance.prompt_box
        assert mask[roi.y_offset :, roi.x_offset :][: roi.height, : roi.width].all()
        assert roi.height * roi.width == instance.area
        assert (box.x_min, box.y_min, box.x_max, box.y_max) == (1.5, 2.0, 9.0, 8.25)
        assert [(p.x, p.y) for p in instance.prompt_points] == [(3.0, 4.5)]
        assert np.array_equal(mask_of(instance.mask, 30, 40), mask)
        assert not instance.has_3d and not instance.id


def test_every_time_and_count_arrives_under_its_name() -> None:
    timing = sent(answer()).timing
    assert (timing.queue, timing.preprocess, timing.first_token, timing.reason) == (0.5, 0.25, 0.125, 2.0)
    assert (timing.segment, timing.postprocess, timing.total) == (1.0, 0.0625, 4.0)
    assert (timing.prompt_tokens, timing.completion_tokens, timing.dropped_frames) == (100, 50, 7)


def test_an_empty_mask_has_no_region_and_no_pixels() -> None:
    (instance,) = sent(answer(np.zeros((30, 40), bool))).instances
    assert (instance.area, instance.mask.encoding, len(instance.mask.data)) == (0, Mask.NONE, 0)
    roi = instance.roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (0, 0, 0, 0)
    assert instance.prompt_box.x_max == 9.0


def test_an_instance_without_a_prompt_box_has_a_box_of_zeros() -> None:
    bare = replace(found(1, rectangle(0, 0, 3, 3)), prompt_box=None, prompt_points=())
    (instance,) = sent(answer(instances=(bare,))).instances
    box = instance.prompt_box
    assert (box.x_min, box.y_min, box.x_max, box.y_max) == (0, 0, 0, 0) and not instance.prompt_points
    (plain,) = json.loads(result_json(answer(instances=(bare,)), HEADER, ""))["instances"]
    assert plain["prompt_box"] is None and plain["prompt_points"] == []


@pytest.mark.parametrize("status", list(Status))
def test_every_status_has_its_constant_and_its_name(status: Status) -> None:
    failed = Segmentation(status, "a sentence", "the mug", 0, 0)
    msg = sent(failed)
    assert msg.status == getattr(SegmentationMsg, f"STATUS_{status.name}")
    assert msg.message == "a sentence" and not msg.instances
    assert msg.camera_info == CameraInfo()
    assert json.loads(result_json(failed, HEADER, ""))["status"] == status.name


def test_the_message_knows_no_status_that_we_do_not() -> None:
    constants = [name for name in dir(SegmentationMsg) if name.startswith("STATUS_")]
    values = {getattr(SegmentationMsg, name) for name in constants}
    assert len(constants) == len(values) == len(Status)


TURN = (0.0, 0.6, 0.0, 0.8)
BOX = Box3D(Pose((1.0, -0.5, 0.25), TURN), (0.125, 0.25, 0.5))
HINTS = (Hint("centroid", Pose((1.0, 2.0, 3.0), TURN)), Hint("long_axis", Pose((4.0, 5.0, 6.0), TURN), 0.0625))
LIFTED = Lifted(Status3D.OK, centroid=(0.5, 0.25, 1.5), box=BOX, visible=0.75, hints=HINTS)


def in_space(*lifted: Lifted | None, frame_id: str = "base_link") -> Segmentation:
    instances = tuple(found(n, rectangle(2, 3, 10, 9), lifted=each) for n, each in enumerate(lifted, 1))
    scene = Scene(np.ones((30, 40), np.float32), Camera(40, 30, (50.0, 50.0, 20.0, 15.0)), frame_id)
    return answer(instances=instances, scene=scene)


def values(message: Any) -> tuple[float, ...]:
    return tuple(getattr(message, name) for name in message.get_fields_and_field_types())


def test_what_is_known_in_space_arrives_in_its_own_frame_at_the_image_s_stamp() -> None:
    msg = sent(in_space(LIFTED))
    (one,) = msg.instances
    assert one.has_3d and one.status_3d == InstanceMsg.STATUS_3D_OK
    assert one.header_3d == Header(stamp=HEADER.stamp, frame_id="base_link") and msg.header == HEADER
    assert (values(one.centroid), one.visible) == ((0.5, 0.25, 1.5), 0.75)
    assert values(one.box3d.center.position) == BOX.center.position
    assert (values(one.box3d.center.orientation), values(one.box3d.size)) == (TURN, BOX.size)
    assert [(h.name, h.index, h.width) for h in msg.grasp_hints] == [("centroid", 1, 0), ("long_axis", 1, 0.0625)]
    assert values(msg.grasp_hints[1].pose.position) == (4, 5, 6)
    assert values(msg.grasp_hints[1].pose.orientation) == TURN


def test_json_says_the_same_of_space() -> None:
    plain = json.loads(result_json(in_space(LIFTED), HEADER, ""))
    assert plain["frame_id_3d"] == "base_link"
    (one,) = plain["instances"]
    center = {"position": [1.0, -0.5, 0.25], "orientation": list(TURN)}
    assert (one["status_3d"], one["centroid"], one["visible"]) == ("OK", [0.5, 0.25, 1.5], 0.75)
    assert one["box_3d"] == {"center": center, "size": [0.125, 0.25, 0.5]}
    second = {"position": [4, 5, 6], "orientation": list(TURN)}
    assert plain["grasp_hints"][1] == {"name": "long_axis", "index": 1, "pose": second, "width": 0.0625}


@pytest.mark.parametrize("status", [s for s in Status3D if s is not Status3D.OK])
def test_a_lift_that_failed_says_why_and_nothing_else(status: Status3D) -> None:
    failed = in_space(replace(LIFTED, status=status, message="the mug shines"), LIFTED)
    msg, plain = sent(failed), json.loads(result_json(failed, HEADER, ""))
    one, other = msg.instances
    assert one.status_3d == getattr(InstanceMsg, f"STATUS_3D_{status.name}")
    assert (one.message_3d, one.has_3d, other.has_3d) == ("the mug shines", False, True)
    blank = InstanceMsg()
    for name in ("header_3d", "centroid", "box3d", "visible"):
        assert getattr(one, name) == getattr(blank, name)
    assert {h.index for h in msg.grasp_hints} == {h["index"] for h in plain["grasp_hints"]} == {2}
    said = plain["instances"][0]
    assert (said["status_3d"], said["message_3d"]) == (status.name, "the mug shines")
    assert said["centroid"] is said["box_3d"] is said["visible"] is None


def test_the_message_knows_no_status_in_space_that_we_do_not() -> None:
    constants = [name for name in dir(InstanceMsg) if name.startswith("STATUS_3D_")]
    assert {name.removeprefix("STATUS_3D_") for name in constants} == {s.name for s in Status3D}
    assert len({getattr(InstanceMsg, name) for name in constants}) == len(Status3D)


def test_json_stays_json_where_a_number_is_none() -> None:
    endless = in_space(replace(LIFTED, centroid=(float("nan"), float("inf"), 1.0)))
    text = result_json(endless, HEADER, "")
    assert json.loads(text, parse_constant=pytest.fail)["instances"][0]["centroid"] == [None, None, 1.0]


HOSTILE = ["\ud800", "\udfff\ud800", "a\0b", "\x1b[31m\x07\r\n\t", "\u202e\ufeff", "\U0001f600", '"}\\', "é" * 10_000]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_arrives_as_text(text: str) -> None:
    instance = replace(found(1, rectangle(0, 0, 2, 2)), label=text)
    unlifted = replace(instance, lifted=Lifted(Status3D.NO_DEPTH, text))
    hostile = answer(instances=(instance, unlifted), instruction=text, message=text, reasoning=text, answer=text)
    msg = sent(hostile)
    plain = json.loads(result_json(hostile, HEADER, "request 7"))
    first, second = msg.instances
    for arrived in (msg.instruction, msg.message, msg.reasoning, msg.answer, first.label, second.message_3d):
        assert arrived == plain["reasoning"] and len(arrived) == len(text) and "\0" not in arrived
    if text.isprintable():
        assert msg.reasoning == text


@given(st.text(st.characters(categories=None)))
def test_any_text_arrives_the_same_in_the_message_and_in_the_json(text: str) -> None:
    spoken = answer(instruction=text, reasoning=text)
    msg, plain = sent(spoken), json.loads(result_json(spoken, HEADER, ""))
    assert msg.instruction == plain["instruction"] and msg.reasoning == plain["reasoning"]
    assert len(msg.reasoning) == len(text)


def test_json_says_all_but_the_pixels_and_the_raw_text() -> None:
    plain = json.loads(result_json(answer(rectangle(2, 3, 10, 9)), HEADER, "request 7"))
    assert plain.pop("stamp") == {"sec": 1234567890, "nanosec": 999999999}
    assert (plain.pop("frame_id"), plain.pop("request_id")) == (HEADER.frame_id, "request 7")
    assert plain.pop("instances") == [
        {
            "index": 1,
            "label": "object 1",
            "score": 0.75,
            "confidence": None,
            "box": [2, 3, 10, 9],
            "area": 48,
            "prompt_box": [1.5, 2, 9, 8.25],
            "prompt_points": [[3, 4.5]],
            "status_3d": "NOT_ASKED",
            "message_3d": "",
            "centroid": None,
            "box_3d": None,
            "visible": None,
        }
    ]
    assert (plain.pop("frame_id_3d"), plain.pop("grasp_hints")) == (None, [])
    assert set(plain) == set(contract.Segmentation.__dataclass_fields__) - {"instances", "text", "scene"}
    assert (plain["status"], plain["height"], plain["width"], plain["timing"]["total"]) == ("OK", 30, 40, 4.0)


def test_json_stays_small_however_large_the_masks() -> None:
    large = np.random.default_rng(0).random((600, 800)) > 0.5
    text = result_json(answer(large, large, height=600, width=800), HEADER, "")
    assert len(text) < 2000 and text.isascii()


masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda s: st.lists(st.booleans(), min_size=s[0] * s[1], max_size=s[0] * s[1]).map(lambda x: np.array(x).reshape(s))
)


@given(masks)
def test_a_mask_comes_back_from_its_message(mask: BoolMask) -> None:
    height, width = mask.shape
    (instance,) = sent(answer(mask, height=height, width=width)).instances
    assert np.array_equal(mask_of(instance.mask, height, width), mask)
    assert instance.area == mask.sum()
    roi = instance.roi
    assert (instance.mask.width, instance.mask.height) == (roi.width, roi.height)
    assert (instance.mask.x_offset, instance.mask.y_offset) == (roi.x_offset, roi.y_offset)
