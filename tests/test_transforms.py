"""Transforms by TF2: at the image's time, waited for, and in words where there is none. tf2_ros itself is a stand-in
with the interface of its buffer; docs/3d.md says how the genuine one was tried."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rclpy.clock import ClockType
from rclpy.time import Time

from segzero_ros.core.contract import Cancel
from segzero_ros.core.space import LiftError, Status3D
from segzero_ros.ros.transforms import Transforms, transform_of

S = 1_000_000_000
FOREVER = 60.0  # seconds; only a failing test waits so long
TURNED = Transform(translation=Vector3(x=1.0, y=2.0, z=3.0), rotation=Quaternion(x=0.0, y=0.0, z=0.5**0.5, w=0.5**0.5))


class StandIn:
    """tf2_ros.Buffer: `known` by (target, source, nanoseconds); unknown ones raise, `after` so many looks no more."""

    def __init__(self, cache_time: Any) -> None:
        self.cache_time = cache_time
        self.known: dict[tuple[str, str, int], Transform] = {}
        self.after = self.looks = 0
        self.cleared = False

    def lookup_transform(self, target: str, source: str, time: Any) -> TransformStamped:
        self.looks += 1
        if self.looks <= self.after or (target, source, time.nanoseconds) not in self.known:
            raise RuntimeError("Lookup would require extrapolation\ninto the future.\x1b[31m")
        return TransformStamped(transform=self.known[target, source, time.nanoseconds])

    def clear(self) -> None:
        self.cleared = True


class Listener:
    def __init__(self, buffer: StandIn, node: Any, *, spin_thread: bool) -> None:
        assert not spin_thread
        self.buffer, self.left = buffer, False

    def unregister(self) -> None:
        self.left = True


@pytest.fixture
def node() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context)
    made = rclpy.create_node("transforms", context=context)
    yield made
    made.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def transforms(node: Any, monkeypatch: pytest.MonkeyPatch) -> Transforms:
    monkeypatch.setitem(sys.modules, "tf2_ros", SimpleNamespace(Buffer=StandIn, TransformListener=Listener))
    return Transforms(node)


def refusal(transforms: Transforms, target: str = "base", source: str = "camera", **more: Any) -> str:
    with pytest.raises(LiftError) as error:
        transforms.find(target, source, more.get("stamp", 5 * S), more.get("wait", 0.0), more.get("cancel", Cancel()))
    assert error.value.status is Status3D.NO_TRANSFORM
    assert error.value.message.isprintable() and len(error.value.message) < 600
    return error.value.message


def test_a_transform_of_the_image_s_own_time_turns_and_moves_points(transforms: Transforms) -> None:
    transforms._buffer.known["base", "camera", 5 * S] = TURNED
    found = transforms.find("base", "camera", 5 * S, 0.0, Cancel())
    assert found
    assert np.allclose(found.rotation @ [1, 0, 0] + found.translation, [1, 3, 3])
    assert np.allclose(found.rotation @ found.rotation.T, np.eye(3))


def test_the_same_frame_needs_no_transform(transforms: Transforms) -> None:
    assert transforms.find("camera", "camera", 5 * S, 0.0, Cancel()) is None


def test_a_missing_transform_is_told_with_tf2_s_own_words_in_one_line(transforms: Transforms) -> None:
    said = refusal(transforms)
    assert said.startswith("there is no transform from 'camera' to 'base'")
    assert "Lookup would require extrapolation into the future." in said
    assert transforms._buffer.looks == 1


def test_a_late_transform_is_waited_for(transforms: Transforms) -> None:
    transforms._buffer.known["base", "camera", 5 * S] = TURNED
    transforms._buffer.after = 3
    assert transforms.find("base", "camera", 5 * S, FOREVER, Cancel()) and transforms._buffer.looks == 4


def test_a_cancel_ends_the_waiting_for_a_transform(transforms: Transforms) -> None:
    cancel, said = Cancel(), []
    thread = threading.Thread(target=lambda: said.append(refusal(transforms, wait=FOREVER, cancel=cancel)))
    thread.start()
    cancel.set()
    thread.join(FOREVER / 2)
    assert said


def test_a_frame_without_a_name_and_a_stamp_of_zero_are_refused(transforms: Transforms) -> None:
    assert "a frame_id is empty" in refusal(transforms, source="")
    assert "the stamp is zero" in refusal(transforms, stamp=0)
    assert transforms._buffer.looks == 0


def test_without_tf2_ros_it_is_said_what_to_install(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    without = Transforms(node)
    assert "tf2-ros-py" in without.missing and "tf2-ros-py" in refusal(without)
    assert without.find("camera", "camera", 5 * S, 0.0, Cancel()) is None
    without.forget()
    without.close()


def test_closing_ends_the_subscriptions_and_forgetting_empties_the_buffer(transforms: Transforms) -> None:
    listener = transforms._handles[0]
    transforms.forget()
    transforms.close()
    transforms.close()
    assert listener.left and transforms._buffer.cleared


def test_a_simulated_clock_that_is_set_back_empties_the_buffer(node: Any, transforms: Transforms) -> None:
    clock = node.get_clock()
    clock._set_ros_time_is_active(True)
    clock.set_ros_time_override(Time(seconds=100, clock_type=ClockType.ROS_TIME))
    transforms._buffer.cleared = False
    clock.set_ros_time_override(Time(seconds=101, clock_type=ClockType.ROS_TIME))
    assert not transforms._buffer.cleared
    clock.set_ros_time_override(Time(seconds=3, clock_type=ClockType.ROS_TIME))
    assert transforms._buffer.cleared
    transforms.close()
    transforms._buffer.cleared = False
    clock.set_ros_time_override(Time(seconds=1, clock_type=ClockType.ROS_TIME))
    assert not transforms._buffer.cleared


@pytest.mark.parametrize(
    "broken",
    [
        Transform(rotation=Quaternion(x=0.0, y=0.0, z=0.0, w=0.0)),
        Transform(rotation=Quaternion(x=0.0, y=0.0, z=0.0, w=1.1)),
        Transform(rotation=Quaternion(x=float("nan"), y=0.0, z=0.0, w=1.0)),
        Transform(translation=Vector3(x=float("inf"), y=0.0, z=0.0)),
    ],
)
def test_what_is_no_rigid_motion_is_refused(transforms: Transforms, broken: Transform) -> None:
    assert transform_of(broken) is None
    transforms._buffer.known["base", "camera", 5 * S] = broken
    assert "no rigid motion" in refusal(transforms)


@pytest.mark.parametrize("seed", range(5))
def test_a_quaternion_becomes_the_matrix_that_scipy_makes_of_it(seed: int) -> None:
    from scipy.spatial.transform import Rotation

    rotation = Rotation.random(random_state=seed)
    x, y, z, w = map(float, rotation.as_quat() * 1.004)  # a little off its length, as sent in float32 or by hand
    found = transform_of(Transform(rotation=Quaternion(x=x, y=y, z=z, w=w)))
    assert found and np.allclose(found.rotation, rotation.as_matrix())
