"""The pick in simulation: its geometry, its counting, and one lift by physics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pybullet
import pytest
from scipy.spatial.transform import Rotation

import pick_in_sim
from pick.answers import Reply, lift_mask, to_world
from pick.camera import with_noise
from pick.grasp import count_in_the_way, plan_grasp
from pick.page import BEGIN, END, summarise_all, table
from pick.robot import FINGER, OPENING
from pick.score import Attempt, Record, UprightBox, box_errors, cause_in_space, read_record, summarise, upright_box
from pick.trial import LIFTED, Cell, Scene
from segzero_ros.core.space import Box3D, Pose
from training.data.tabletop.store import SPLITS

DOCS = Path(__file__).resolve().parent.parent / "docs" / "pick"
SMALL = (320, 180)
NOTHING = np.zeros((0, 3))


@pytest.fixture(scope="module")
def cell() -> Iterator[Cell]:
    cell = Cell()
    yield cell
    cell.world.close()


def box_at(x: float, y: float, size: tuple[float, float, float], yaw: float = 0.0) -> UprightBox:
    return UprightBox(np.array([x, y, size[2] / 2]), np.array(size), yaw)


def record(scene: int = 0, iou: float = 0.9, lifted: bool = True, bound: bool = True, error: float = 0.004) -> Record:
    answer = Attempt("OK", "", error, 0.1, True, lifted)
    return Record(
        asked="process",
        size="1280x720",
        noise="exact",
        seed=0,
        scene=scene,
        kind="color",
        instruction="the red thing",
        target="red cube",
        objects=4,
        reachable=True,
        status="OK",
        message="",
        label="red cube",
        iou=iou,
        answer=answer,
        bound=replace(answer, error=0.003, lifted=bound),
        seconds=0.5,
    )


# -- geometry


def test_a_box_is_compared_by_its_sides_whichever_is_called_x() -> None:
    a, b = box_at(0, 0, (0.1, 0.06, 0.08)), box_at(0.003, 0.004, (0.06, 0.1, 0.08), np.pi / 2)
    error, extent = box_errors(a, b)
    assert error == pytest.approx(0.005)
    assert extent == pytest.approx(0)


def test_a_box_in_the_cameras_frame_is_the_same_box_in_the_world() -> None:
    true = box_at(0.1, -0.2, (0.12, 0.07, 0.09), 0.4)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", (-2.1, 0.3, 1.0)).as_matrix()
    pose[:3, 3] = 0.3, -0.6, 0.9
    world_to_camera = np.linalg.inv(pose)
    center = world_to_camera @ [*true.center, 1]
    turn = world_to_camera[:3, :3] @ Rotation.from_euler("z", true.yaw).as_matrix()
    seen = Box3D(Pose(tuple(center[:3]), tuple(Rotation.from_matrix(turn).as_quat())), tuple(true.size))
    error, extent = box_errors(to_world(seen, pose), true)
    assert error < 1e-6
    assert extent < 1e-5


def test_the_fingers_close_across_the_shorter_side() -> None:
    grasp = plan_grasp(box_at(0, 0, (0.12, 0.06, 0.1), 0.3), NOTHING)
    assert grasp is not None
    assert grasp.yaw == pytest.approx(0.3 + np.pi / 2)
    assert grasp.opening > 0.06


def test_the_fingers_close_across_the_longer_side_where_something_stands_beside_the_shorter() -> None:
    box = box_at(0, 0, (0.12, 0.06, 0.1))
    beside = np.random.default_rng(0).uniform((-0.02, 0.04, 0.0), (0.02, 0.08, 0.1), (400, 3))
    grasp = plan_grasp(box, beside)
    assert grasp is not None
    assert grasp.yaw == pytest.approx(0)
    assert grasp.blocked == 0


def test_what_is_wider_than_the_gripper_is_not_grasped() -> None:
    assert plan_grasp(box_at(0, 0, (OPENING, OPENING, 0.1)), NOTHING) is None


def test_points_between_the_fingers_are_not_in_their_way() -> None:
    position = np.array([0.1, 0.1, 0.02])
    between = position[None] + (0.0, 0.0, 0.05)
    at_finger = position[None] + (0.0, 0.04 + FINGER[0] / 2, 0.05)
    above = position[None] + (0.0, 0.0, FINGER[2] + 0.02)
    counts = [count_in_the_way(position, np.pi / 2, 0.08, points) for points in (between, at_finger, above)]
    assert counts == [0, 1, 1]


def test_noisy_depth_has_steps_of_a_millimetre_one_percent_noise_and_holes_at_edges_alone() -> None:
    depth = np.full((120, 160), 1.0, np.float32)
    depth[40:80, 50:110] = 0.8
    noisy = with_noise(depth, np.random.default_rng(0))
    holes = ~np.isfinite(noisy)
    assert np.allclose(noisy[~holes] * 1000, np.round(noisy[~holes] * 1000), atol=1e-3)
    assert 0.009 < np.std(noisy[:30, :]) < 0.011
    assert holes.any()
    assert not holes[50:70, 60:100].any()
    assert not holes[:30].any()


# -- counting


def test_a_failure_counts_for_the_first_step_that_went_wrong() -> None:
    assert record().cause == ""
    assert record(iou=0.49, lifted=False).cause == "reasoning"
    assert record(iou=0.7, lifted=False, error=0.2).cause == "mask"
    assert record(lifted=False, error=0.03).cause == "3d"
    assert record(lifted=False).cause == "grasp"
    assert cause_in_space(Attempt("TOO_FEW_POINTS")) == "3d"


def test_figures_are_over_the_scenes_that_the_arm_reaches() -> None:
    records = [record(n) for n in range(6)]
    records += [record(6, iou=0.1, lifted=False), record(7, lifted=False), replace(record(8), reachable=False)]
    result = summarise(records)
    assert (result["n"], result["n_unreachable"], result["n_2d_right"]) == (8, 1, 7)
    assert result["success"] == 0.75
    assert result["bound"] == 1
    assert result["success_where_2d_right"] == round(6 / 7, 4)
    assert result["ratio"] == round(6 / 7, 4)
    assert result["failures"] == {"reasoning": 1, "mask": 0, "3d": 0, "grasp": 1}
    assert result["centroid_p50_mm"] == 4
    assert result["centroid_true_mask_p50_mm"] == 3


def test_the_ratios_interval_draws_answer_and_bound_of_a_scene_together() -> None:
    # Equal in every scene: the ratio is 1 whatever is drawn, however uncertain both are.
    records = [record(n, lifted=n % 2 == 0, bound=n % 2 == 0) for n in range(20)]
    result = summarise(records)
    assert result["ratio_ci"] == [1, 1]
    low, high = result["success_ci"]
    assert low < 0.4 < 0.6 < high
    assert summarise(records) == result


def test_figures_of_no_scene_and_of_no_right_answer_are_no_numbers() -> None:
    assert summarise([])["n"] == 0
    result = summarise([record(n, iou=0.0, lifted=False) for n in range(3)])
    assert result["success"] == 0
    assert result["ratio"] is None
    assert result["ratio_ci"] is None


def test_sizes_and_noisy_depth_have_figures_of_their_own() -> None:
    records = [record(0), replace(record(0, lifted=False), noise="noisy"), replace(record(0), size="960x960")]
    result = summarise_all(records)
    assert (result["success"], result["noisy"]["success"], result["960x960"]["success"]) == (1, 0, 1)


def test_a_run_that_was_killed_keeps_its_whole_lines(tmp_path: Path) -> None:
    lines = [json.dumps(asdict(record(n))) for n in range(3)]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(lines)[:-20])
    assert pick_in_sim.read_records(path) == [record(0), record(1)]
    assert read_record(json.loads(lines[2])) == record(2)


def test_the_page_has_the_figures_of_results_json() -> None:
    results = json.loads((DOCS / "results.json").read_text())
    page = (DOCS / "README.md").read_text()
    assert page.partition(BEGIN)[2].partition(END)[0].strip().splitlines() == table(results)


# -- physics


def lay(cell: Cell, number: int) -> Scene:
    return cell.lay(3, number, *SMALL)


def answer_from(scene: Scene, cell: Cell, shift: float = 0.0) -> Reply:
    """What an asker with the true mask says, its box `shift` metres off."""
    mask = scene.view.mask(cell.world.bodies[scene.target].id)
    lifted = lift_mask(mask, scene.view)
    box = lifted.box
    if box is not None and shift:
        x, y, z = box.center.position
        box = replace(box, center=replace(box.center, position=(x + shift, y, z)))
    return Reply("OK", "", 0.0, "it", mask, lifted.status.value, lifted.message, box)


def test_no_split_of_the_training_data_has_the_scenes_seeds() -> None:
    assert 6 not in SPLITS.values()


def test_a_scene_is_the_same_each_time_it_is_laid(cell: Cell) -> None:
    first, second = lay(cell, 1), lay(cell, 1)
    assert np.array_equal(first.view.rgb, second.view.rgb)
    assert first.item == second.item
    assert not np.array_equal(first.view.rgb, lay(cell, 2).view.rgb)


def test_the_tables_pixels_lie_on_the_table(cell: Cell) -> None:
    view = lay(cell, 1).view
    fx, fy, cx, cy = view.camera.k
    rows, columns = np.nonzero(view.mask(cell.world.table))
    z = view.depth[rows, columns].astype(float)
    points = np.stack([(columns - cx) / fx * z, (rows - cy) / fy * z, z], 1) @ view.pose[:3, :3].T + view.pose[:3, 3]
    top = points[np.abs(points[:, 2]) < 0.015]  # not its side
    assert len(top) > 0.9 * len(points)
    assert np.abs(np.median(top[:, 2])) < 0.002


def test_the_arms_own_kinematics_are_those_of_the_simulation(cell: Cell) -> None:
    lay(cell, 1)
    robot = cell.robot
    assert robot is not None
    joints = np.array([0.3, 0.5, 0.2, -1.0, 0.4, 0.7, 0.1])
    robot.place(joints)
    state = pybullet.getLinkState(
        robot.body, robot.joints[-1], computeForwardKinematics=True, physicsClientId=cell.world.client
    )
    assert np.allclose(cell.arm.frames(joints)[6, :3, 3], state[4], atol=1e-4)
    assert upright_box(cell.world.bodies[1].vertices).size.min() > 0.02


def test_the_target_is_lifted_and_held(cell: Cell) -> None:
    scene = lay(cell, 1)
    outcomes = list(cell.run(scene, lambda view, words: answer_from(scene, cell), ("exact",)))
    result = outcomes[0].record
    assert result.reachable
    assert result.iou == 1
    assert result.answer.lifted
    assert result.bound.lifted
    assert cell.world.lowest(scene.target) < 0.005 < LIFTED  # all is put back for the next trial


def test_a_grasp_beside_the_target_lifts_nothing(cell: Cell) -> None:
    scene = lay(cell, 1)
    outcomes = list(cell.run(scene, lambda view, words: answer_from(scene, cell, shift=0.12), ("exact",)))
    result = outcomes[0].record
    assert not result.answer.lifted
    assert result.cause == "3d"
    assert result.bound.lifted


def test_no_answer_is_no_pick(cell: Cell) -> None:
    scene = lay(cell, 1)
    said = Reply("NO_OBJECT", "nothing matches", 0.0)
    result = next(iter(cell.run(scene, lambda view, words: said, ("exact",)))).record
    assert (result.iou, result.answer.lifted, result.cause) == (0.0, False, "reasoning")
