"""What the examples make of an answer in space. moveit_msgs is no wheel, so its messages are stood in for here."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from std_msgs.msg import Header

import to_anygrasp
import to_planning_scene
from segzero_ros.core.contract import Segmentation, Status
from segzero_ros.ros import products, products_3d
from tests.test_products_3d import BOX, IN_SPACE, depth, instance, lifted, refused, reply

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "examples/to_foundationpose.md").read_text(encoding="utf-8")


class CollisionObject(types.SimpleNamespace):
    ADD, REMOVE = b"\0", b"\1"


class SolidPrimitive(types.SimpleNamespace):
    BOX = 1


KINDS = (CollisionObject, SolidPrimitive)


def test_each_object_in_space_is_a_box_in_the_planning_scene() -> None:
    answer = products.result(reply(instance(1, 5, lifted()), refused(2, 20), instance(3, 40, lifted())))
    things = to_planning_scene.changes(answer, set(), *KINDS)
    assert [(t.id, t.operation) for t in things] == [("segzero_1", b"\0"), ("segzero_3", b"\0")]
    first = things[0]
    assert first.header == IN_SPACE and first.pose == answer.instances[0].box3d.center
    assert [(p.type, p.dimensions) for p in first.primitives] == [(SolidPrimitive.BOX, list(BOX.size))]
    (place,) = first.primitive_poses
    assert (place.position.x, place.position.y, place.position.z, place.orientation.w) == (0, 0, 0, 1)


def test_objects_of_the_answer_before_leave_the_planning_scene() -> None:
    answer = products.result(reply(instance(1, 5, lifted())))
    things = to_planning_scene.changes(answer, {"segzero_1", "segzero_2"}, *KINDS)
    assert [(t.id, t.operation) for t in things] == [("segzero_2", b"\1"), ("segzero_1", b"\0")]
    failed = products.result(products.Reply(Header(), None, None, Segmentation(Status.TIMEOUT, "", "", 0, 0), "8"))
    assert [t.id for t in to_planning_scene.changes(failed, {"segzero_1"}, *KINDS)] == ["segzero_1"]


def test_grasp_networks_get_the_scene_and_which_of_its_points_are_the_object() -> None:
    r = reply(instance(1, 5, lifted()), instance(2, 40, lifted(9)), transform=None)
    made = to_anygrasp.arrays(products_3d.scene_points(r, 2), products_3d.points(r), 2)
    seen = np.isfinite(depth()[::2, ::2])
    n = int(seen.sum())
    assert (made["xyz"].shape, made["xyz"].dtype, made["object_mask"].shape) == ((n, 3), np.float32, (n,))
    assert np.array_equal(made["object_mask"], r.labels[::2, ::2][seen] == 2)
    assert np.array_equal(made["xyz"][:, 2], depth()[::2, ::2][seen])
    assert np.array_equal(made["xyz_color"], r.source[::2, ::2][seen])
    assert made["colors"].dtype == np.float32 and np.array_equal((made["colors"] * 255).round(), made["xyz_color"])
    assert np.array_equal(made["object_xyz"], lifted(9).points)
    x_min, x_max, y_min, y_max, z_min, z_max = made["lims"]
    margin = to_anygrasp.MARGIN
    assert (x_min, y_min, z_min) == pytest.approx(lifted(9).points.min(0) - margin)
    assert (x_max, y_max, z_max) == pytest.approx(lifted(9).points.max(0) + margin)


@pytest.mark.parametrize("r", [reply(), reply(camera=None), reply(refused(1, 5))])
def test_without_the_object_in_space_a_sentence_says_so(r: Any) -> None:
    with pytest.raises(ValueError, match="object 1 has no points"):
        to_anygrasp.arrays(products_3d.scene_points(r, 2), products_3d.points(r))


def test_the_arrays_are_saved_when_both_clouds_are_of_one_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    r = reply(instance(1, 5, lifted()), transform=None)
    saver: Any = types.SimpleNamespace(clouds={}, out=tmp_path / "grasp.npz", index=1)
    scene, older = products_3d.scene_points(r, 2), products_3d.points(r)
    older.header = Header()
    to_anygrasp.Saver.on_cloud(saver, "points", older)
    to_anygrasp.Saver.on_cloud(saver, "scene_points", scene)
    assert not saver.out.exists()
    to_anygrasp.Saver.on_cloud(saver, "points", products_3d.points(r))
    with np.load(saver.out) as saved:
        assert set(saved) == set(re.findall(r"^    (\w+) +(?:float32|uint8|bool) \(", to_anygrasp.__doc__ or "", re.M))
    assert "object_xyz  float32 (5, 3)" in capsys.readouterr().out


def test_the_guide_names_topics_that_fit_in_stamp_and_size() -> None:
    r = reply(instance(1, 5, lifted()))
    made = (products.source_image, products.mask, products_3d.object_depth, products_3d.depth_info)
    messages: list[Any] = [make(r) for make in made]
    assert len({(m.width, m.height) for m in messages}) == 1 and all(m.header == r.header for m in messages)
    topics = (ROOT / "segzero_ros/ros/topics.py").read_text(encoding="utf-8")
    named = re.findall(r"`(~/[a-z_/]+)`", GUIDE)
    assert len(set(named)) == 5 and all(f'"{topic}"' in topics for topic in named)
    compile(re.findall(r"```python\n(.*?)```", GUIDE, re.S)[0], "to_foundationpose.md", "exec")
