"""Masks and depth to clouds, boxes, planes and grasp hints, against things whose true boxes are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segzero_ros.core import lifting
from segzero_ros.core.contract import Cancel
from segzero_ros.core.lifting import Gates, lift
from segzero_ros.core.space import Camera, Hint, Lifted, Scene, Status3D, Transform, rotation_of
from segzero_ros.core.surfaces import core_of, in_depth_with, support_plane, without_flying
from tests.raycast import (
    CAMERA,
    Thing,
    View,
    ball,
    block,
    camera_pose,
    column,
    cone,
    instance_of,
    look,
    lying,
    mug,
    spoil,
)

SMALL = Camera(640, 360, (455.0, 455.0, 320.0, 180.0))
PLACES = [(x, y) for x in (-0.09, 0.11) for y in (-0.26, -0.09, 0.09, 0.26)]
SHAPES: tuple[tuple[str, object, tuple[float, float, float], float], ...] = (
    ("box", block((0.10, 0.05, 0.06)), (0.10, 0.05, 0.06), 0.5),
    ("cube", block((0.06,) * 3), (0.06,) * 3, 1.2),
    ("flat box", block((0.12, 0.07, 0.04)), (0.12, 0.07, 0.04), -0.3),
    ("cylinder", column(0.03, 0, 0.10), (0.06, 0.06, 0.10), 0),
    ("ball", ball(0.03), (0.06,) * 3, 0),
    ("large ball", ball(0.05), (0.10,) * 3, 0),
    ("lying cylinder", lying(0.02, 0.11), (0.11, 0.04, 0.04), 0.7),
    ("cone", cone(0.04, 0.09), (0.08, 0.08, 0.09), 0),
)
THINGS = tuple(
    Thing(name, distance, size, at, yaw)  # type: ignore[arg-type]
    for (name, distance, size, yaw), at in zip(SHAPES, PLACES, strict=True)
)


@lru_cache
def tabletop(elevation: float) -> View:
    return look(THINGS, camera_pose(elevation, 0, 0.72))


@lru_cache
def single(name: str, elevation: float = 40, camera: Camera = SMALL, azimuth: float = 20) -> tuple[Thing, View]:
    thing = replace(next(t for t in (*THINGS, MUG, BOTTLE) if t.name == name), at=(0.0, 0.0))
    return thing, look([thing], camera_pose(elevation, azimuth, 0.6), camera)


MUG = Thing("mug", mug(0.04, 0.10), (0.115, 0.08, 0.10), yaw=1.0, middle=(0.0175, 0))
BOTTLE = Thing("bottle", column(0.025, 0, 0.12), (0.05, 0.05, 0.12))


def lift_all(view: View, masks: Sequence[np.ndarray] | None = None, **changes: object) -> tuple[Lifted, ...]:
    masks = [view.labels == n for n in range(1, view.labels.max() + 1)] if masks is None else masks
    scene = replace(view.scene, **changes)  # type: ignore[arg-type]
    return lift([instance_of(mask, n) for n, mask in enumerate(masks, 1)], view.image, scene)


def lift_one(view: View, mask: np.ndarray | None = None, **changes: object) -> Lifted:
    (lifted,) = lift_all(view, [view.labels == 1 if mask is None else mask], **changes)
    assert lifted.status == Status3D.OK, lifted.message
    return lifted


def centre_error(lifted: Lifted, thing: Thing) -> float:
    assert lifted.box is not None
    return float(np.linalg.norm(np.array(lifted.box.center.position) - thing.centre))


def extent_errors(lifted: Lifted, thing: Thing) -> np.ndarray:
    """Relative; longer side, shorter side, height."""
    assert lifted.box is not None
    true = np.array([*sorted(thing.size[:2], reverse=True), thing.size[2]])
    return np.array(lifted.box.size) / true - 1


def axes(lifted: Lifted) -> np.ndarray:
    assert lifted.box is not None
    return rotation_of(lifted.box.center.orientation)


def hint(lifted: Lifted, name: str) -> Hint:
    return next(h for h in lifted.hints if h.name == name)


# Boxes


@pytest.mark.parametrize("elevation", [28, 42, 58])
def test_a_box_is_the_true_one_though_the_camera_saw_one_side(elevation: float) -> None:
    view = tabletop(elevation)
    for lifted, thing in zip(lift_all(view), THINGS, strict=True):
        assert centre_error(lifted, thing) < 0.004, thing.name
        assert np.abs(extent_errors(lifted, thing)).max() < 0.09, thing.name


def test_noise_steps_and_holes_at_edges_move_a_centre_by_millimetres() -> None:
    errors, extents = [], []
    for n, elevation in enumerate((28, 42, 58)):
        view = tabletop(elevation)
        spoilt = spoil(view.scene.depth, np.random.default_rng(n), noise=0.01)
        for lifted, thing in zip(lift_all(view, depth=spoilt), THINGS, strict=True):
            errors.append(centre_error(lifted, thing))
            extents.extend(np.abs(extent_errors(lifted, thing)))
    assert np.quantile(errors, 0.5) < 0.003 and np.quantile(errors, 0.9) < 0.008
    assert np.quantile(extents, 0.5) < 0.05 and np.quantile(extents, 0.9) < 0.2


def test_the_far_half_of_a_ball_is_in_its_box_and_not_in_its_cloud() -> None:
    thing, view = single("large ball", 30)
    lifted = lift_one(view)
    assert centre_error(lifted, thing) < 0.003
    away = thing.centre[:2] - view.scene.transform.translation[:2]  # type: ignore[union-attr]
    assert (np.array(lifted.centroid[:2]) - thing.centre[:2]) @ away / np.linalg.norm(away) < -0.01
    assert np.allclose(lifted.centroid, lifted.points.mean(0), atol=1e-4)


def test_a_bare_front_is_taken_to_be_as_deep_as_wide() -> None:
    thing = Thing("tower", block((0.05, 0.05, 0.12)), (0.05, 0.05, 0.12))
    lifted = lift_one(look([thing], camera_pose(10, 0, 0.6), SMALL))  # the camera is lower than the top
    assert centre_error(lifted, thing) < 0.006 and np.abs(extent_errors(lifted, thing)).max() < 0.15


def test_of_a_box_whose_top_is_not_seen_two_sides_say_how_deep_it_is() -> None:
    thing = Thing("tower", block((0.08, 0.04, 0.14)), (0.08, 0.04, 0.14), yaw=0.6)
    lifted = lift_one(look([thing], camera_pose(8, 0, 0.6), SMALL))
    assert centre_error(lifted, thing) < 0.006


def test_an_upright_boxs_axes_are_right_handed_with_z_up_and_x_along_the_longer_side() -> None:
    thing, view = single("box")
    lifted = lift_one(view)
    turn = axes(lifted)
    assert np.linalg.det(turn) > 0.999
    np.testing.assert_allclose(turn[:, 2], (0, 0, 1), atol=1e-3)
    assert abs(turn[:, 0] @ thing.turn[:, 0]) > 0.999
    assert lifted.box is not None and lifted.box.size[0] > lifted.box.size[1]


def test_a_mugs_box_is_the_smallest_rectangle_round_body_and_handle() -> None:
    lifted = lift_one(single("mug")[1])
    assert lifted.box is not None
    longer, shorter, height = lifted.box.size
    assert shorter == pytest.approx(0.08, abs=0.003) and height == pytest.approx(0.10, abs=0.003)
    assert 0.10 < longer < 0.118


def test_a_box_that_stands_on_another_does_not_reach_down_to_the_table() -> None:
    lower = Thing("lower", block((0.06, 0.06, 0.06)), (0.06, 0.06, 0.06))
    upper = replace(lower, lift=0.06)
    view = look([lower, upper], camera_pose(35, 20, 0.6), SMALL)
    lifted = lift_all(view)[1]
    assert centre_error(lifted, upper) < 0.005 and lifted.box is not None
    assert lifted.box.size[2] == pytest.approx(0.06, abs=0.004)


def test_from_straight_above_a_thing_reaches_down_to_the_table() -> None:
    thing, view = single("cylinder", 89)
    lifted = lift_one(view)
    assert centre_error(lifted, thing) < 0.004 and np.abs(extent_errors(lifted, thing)).max() < 0.06


def test_with_gravity_and_no_plane_a_box_is_upright_round_what_is_seen() -> None:
    thing = Thing("box", block((0.10, 0.05, 0.06)), (0.10, 0.05, 0.06), yaw=0.5)
    view = look([thing], camera_pose(40, 20, 0.6), SMALL, table=False)
    lifted = lift_one(view)
    assert lifted.support is None and axes(lifted)[2, 2] > 0.9999
    assert centre_error(lifted, thing) < 0.003


def test_with_neither_a_box_lies_along_the_principal_axes_and_its_shortest_looks_at_the_camera() -> None:
    thing = Thing("lath", block((0.12, 0.04, 0.01)), (0.12, 0.04, 0.01), yaw=0.5)
    view = look([thing], camera_pose(60, 20, 0.6), SMALL, table=False)
    lifted = lift_one(view, transform=None)
    assert lifted.box is not None and view.scene.transform is not None
    long, middle, short = lifted.box.size
    assert long > middle > short and long == pytest.approx(0.12, rel=0.05)
    turn = axes(lifted)
    assert turn[:, 2] @ lifted.box.center.position < 0 and np.linalg.det(turn) > 0.999
    assert abs(view.scene.transform.rotation @ turn[:, 0] @ thing.turn[:, 0]) > 0.99
    assert {h.name for h in lifted.hints} == {"long_axis"}


def test_the_lens_moves_nothing() -> None:
    bent = replace(SMALL, d=(0.1, -0.2, 0.001, -0.002, 0.05))
    thing, view = single("box", camera=bent)
    assert centre_error(lift_one(view), thing) < 0.002


# The plane


def test_the_support_plane_is_the_table_in_the_target_frame() -> None:
    support = lift_one(single("box")[1]).support
    assert support is not None
    np.testing.assert_allclose((*support.normal, support.offset), (0, 0, 1, 0), atol=1e-4)
    assert support.inliers > 0.9 and support.residual < 1e-4


def plane_points(normal: Sequence[float], n: int = 400, noise: float = 0.001) -> np.ndarray:
    draw = np.random.default_rng(1)
    up = np.array(normal) / np.linalg.norm(normal)
    one = np.cross(up, (1, 0, 0.3))
    one /= np.linalg.norm(one)
    flat = draw.uniform(-0.2, 0.2, (n, 2)) @ np.stack((one, np.cross(up, one)))
    return flat + (0, 0, 1) + noise * draw.standard_normal((n, 1)) * up


def test_a_plane_is_found_among_outliers_and_is_the_same_each_time() -> None:
    points = plane_points((0.1, -0.9, -0.4))
    clutter = np.random.default_rng(2).uniform(-0.2, 0.2, (500, 3)) + np.array((0, 0, 1))
    found = support_plane(np.concatenate((clutter, points)))
    assert found is not None and found == support_plane(np.concatenate((clutter, points)))
    true = np.array((0.1, -0.9, -0.4)) / np.linalg.norm((0.1, -0.9, -0.4))
    assert np.degrees(np.arccos(min(1, np.array(found.normal) @ true))) < 1
    assert abs(found.heights(np.array([[0, 0, 1.0]]))[0]) < 0.001


def test_a_plane_looks_up_to_the_camera() -> None:
    found = support_plane(plane_points((0.1, 0.9, 0.4)))
    assert found is not None and found.offset < 0  # the camera, at the origin, is above it


def test_a_plane_that_is_tilted_against_gravity_is_a_wall() -> None:
    points = plane_points((0.0, -np.cos(0.35), -np.sin(0.35)))  # 20 degrees
    assert support_plane(points, up=(0, -1, 0)) is None
    assert support_plane(points, up=(0, -1, 0), max_tilt=25) is not None


def test_few_points_a_line_a_cloud_and_no_numbers_are_no_plane() -> None:
    draw = np.random.default_rng(0)
    line = np.outer(np.linspace(-1, 1, 300), (1, 0, 0)) + np.array((0, 0, 1))
    for points in (
        plane_points((0, 0, -1))[:20],
        line,
        np.repeat([[0, 0, 1.0]], 300, 0),
        draw.uniform(-1, 1, (400, 3)) + np.array((0, 0, 3)),
        np.full((300, 3), np.nan),
        np.zeros((0, 3)),
    ):
        assert support_plane(points) is None


def test_of_a_wall_and_a_table_a_thing_stands_on_what_it_touches() -> None:
    draw = np.random.default_rng(3)
    table = np.column_stack((draw.uniform(-0.2, 0.2, 300), np.full(300, 0.2), draw.uniform(0.8, 1.2, 300)))
    wall = np.column_stack((draw.uniform(-0.2, 0.2, 500), draw.uniform(-0.2, 0.2, 500), np.full(500, 1.2)))
    thing = np.column_stack((draw.uniform(-0.03, 0.03, 200), draw.uniform(0.1, 0.2, 200), np.full(200, 0.9)))
    found = support_plane(np.concatenate((table, wall)), above=thing)
    assert found is not None and found.normal[1] < -0.999


def test_a_wall_behind_a_thing_is_not_what_it_stands_on() -> None:
    thing = Thing("box", block((0.10, 0.05, 0.06)), (0.10, 0.05, 0.06))
    wall = Thing("wall", block((0.02, 0.6, 0.5), (-0.15, 0, 0.25)), (0.32, 0.6, 0.5))
    view = look([thing, wall], camera_pose(25, 0, 0.6), SMALL)
    for transform in (view.scene.transform, None):
        lifted = lift_one(view, transform=transform)
        assert lifted.support is not None and view.scene.transform is not None
        normal = np.array(lifted.support.normal)
        up = normal if transform else view.scene.transform.rotation @ normal
        assert up[2] > 0.999


# Which pixels count


def test_every_pixel_of_a_mask_counts_as_erosion_only_chooses_the_depth() -> None:
    view = tabletop(42)
    for n, lifted in enumerate(lift_all(view), 1):
        assert len(lifted.points) > 0.95 * np.count_nonzero(view.labels == n)


@pytest.mark.parametrize("name", ["box", "cylinder", "ball"])
def test_a_mask_that_is_a_few_pixels_too_large_makes_no_larger_box(name: str) -> None:
    thing, view = single(name, 40, CAMERA)
    loose = cv2.dilate((view.labels == 1).astype(np.uint8), np.ones((7, 7))).astype(bool)
    lifted = lift_one(view, loose)
    assert centre_error(lifted, thing) < 0.004 and extent_errors(lifted, thing).max() < 0.06


def test_background_that_is_seen_past_a_thing_is_not_its_surface() -> None:
    thing, view = single("bottle", 20)
    far = cv2.dilate((view.labels == 1).astype(np.uint8), np.ones((3, 3))).astype(bool)
    top = np.flatnonzero(far.any(1))[0]
    columns = np.flatnonzero(far[top + 3])
    far[top - 12 : top, columns] = True
    lifted = lift_one(view, far)
    assert np.linalg.norm(lifted.points - thing.centre, axis=1).max() < 0.08
    assert centre_error(lifted, thing) < 0.006


def test_a_wall_that_is_seen_past_a_thing_is_not_its_surface() -> None:
    wall = Thing("wall", block((0.02, 0.6, 0.5), (-0.16, 0, 0.25)), (0.34, 0.6, 0.5))
    view = look([BOTTLE, wall], camera_pose(20, 0, 0.6), SMALL)
    loose = cv2.dilate((view.labels == 1).astype(np.uint8), np.ones((13, 13))).astype(bool)
    lifted = lift_one(view, loose)
    assert np.linalg.norm(lifted.points - BOTTLE.centre, axis=1).max() < 0.08
    assert centre_error(lifted, BOTTLE) < 0.006


def test_a_card_on_the_table_is_not_taken_for_the_table() -> None:
    card = Thing("card", block((0.09, 0.06, 0.001)), (0.09, 0.06, 0.001), yaw=0.3)
    view = look([card], camera_pose(45, 0, 0.6), SMALL)
    lifted = lift_one(view)
    assert len(lifted.points) > 0.97 * np.count_nonzero(view.labels == 1)
    assert np.abs(extent_errors(lifted, card))[:2].max() < 0.03


STEPS = np.full((40, 40), 1.0, np.float32)
EVERYWHERE = np.ones((40, 40), bool)


def test_a_pixel_with_company_along_an_edge_alone_is_flying() -> None:
    depth = STEPS.copy()
    depth[:, 20:] = 1.3
    depth[:, 20] = 1.15
    kept = without_flying(depth, EVERYWHERE, 0.01)
    assert not kept[:, 20].any() and np.count_nonzero(kept) == 40 * 39


def test_a_line_of_one_pixel_and_the_corners_of_a_mask_are_not_flying() -> None:
    line, square = np.zeros((2, 40, 40), bool)
    line[20, 5:30] = True
    square[5:30, 5:30] = True
    for mask in (line, square):
        assert (without_flying(np.where(mask, STEPS, np.nan), mask, 0.01) == mask).all()


def test_depths_beyond_a_gap_go_unless_much_of_the_core_has_them() -> None:
    depth = STEPS.copy()
    depth[:, 30:] = 1.3
    core = EVERYWHERE.copy()
    assert np.count_nonzero(in_depth_with(depth, EVERYWHERE, core, 0.02)) == 40 * 30
    depth[:, 25:] = 1.3  # something before the middle of a long thing may part it
    assert in_depth_with(depth, EVERYWHERE, core, 0.02).all()


def test_depths_all_along_are_one_thing_however_long() -> None:
    depth = np.tile(np.linspace(0.5, 3.0, 400, dtype=np.float32), (10, 1))
    core = np.zeros(depth.shape, bool)
    core[:, :20] = True
    assert in_depth_with(depth, np.ones(depth.shape, bool), core, 0.02).all()


def test_erosion_leaves_of_a_thin_mask_what_there_is() -> None:
    for width, left in ((2, 2), (5, 3), (20, 10)):
        mask = np.zeros((420, 40), bool)
        mask[10:410, 10 : 10 + width] = True
        assert core_of(mask, mask)[200].sum() == left
    assert core_of(EVERYWHERE, EVERYWHERE).all()  # the window's edge is the image's


def test_points_in_mid_air_at_a_mixed_edge_are_left_out() -> None:
    _, view = single("bottle", 20, CAMERA)
    mask, depth = view.labels == 1, view.scene.depth.copy()
    edge = mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3))) == 0)
    edge &= np.arange(len(mask))[:, None] < np.flatnonzero(mask.any(1))[0] + 80  # where the table is far behind
    share = np.random.default_rng(0).uniform(0.1, 0.9, depth.shape).astype(np.float32)
    depth[edge] += (0.06 * share)[edge]
    lifted = lift_one(view, depth=depth)
    clean = lift_one(view)
    away = np.hypot(*(lifted.points[:, :2] - BOTTLE.centre[:2]).T) - 0.025
    assert np.count_nonzero(away > 0.01) < 0.1 * np.count_nonzero(edge)
    assert lifted.box is not None and clean.box is not None
    np.testing.assert_allclose(lifted.box.size, clean.box.size, atol=0.006)


def test_a_long_thing_that_points_away_from_the_camera_stays_whole() -> None:
    thing = Thing("lath", block((0.40, 0.02, 0.02)), (0.40, 0.02, 0.02))
    view = look([thing], camera_pose(25, 0, 0.7), SMALL)
    lifted = lift_one(view)
    assert np.abs(extent_errors(lifted, thing))[[0, 2]].max() < 0.03 and centre_error(lifted, thing) < 0.005


def test_a_tall_thing_that_is_seen_from_above_stays_whole() -> None:
    thing = Thing("pole", column(0.02, 0, 0.35), (0.04, 0.04, 0.35))
    view = look([thing], camera_pose(65, 0, 1.0), SMALL)
    lifted = lift_one(view)
    assert abs(extent_errors(lifted, thing)[2]) < 0.03 and centre_error(lifted, thing) < 0.01


def test_a_pen_that_is_three_pixels_wide_is_lifted() -> None:
    pen = Thing("pen", lying(0.004, 0.14), (0.14, 0.008, 0.008), yaw=1.0)
    view = look([pen], camera_pose(45, 0, 1.1), SMALL)
    assert np.count_nonzero(view.labels == 1) < 4 * 60
    lifted = lift_one(view)
    assert lifted.box is not None and lifted.box.size[0] == pytest.approx(0.14, rel=0.05)
    assert centre_error(lifted, pen) < 0.006


def test_a_ring_keeps_its_hole() -> None:
    def ring(p: np.ndarray) -> np.ndarray:
        return np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.05, p[:, 2] - 0.01) - 0.01

    thing = Thing("ring", ring, (0.12, 0.12, 0.02))
    lifted = lift_one(look([thing], camera_pose(45, 0, 0.6), SMALL))
    assert centre_error(lifted, thing) < 0.005
    assert np.hypot(*(lifted.points[:, :2].T)).min() > 0.035


def test_colours_are_those_of_the_same_pixels() -> None:
    _, view = single("box")
    image = view.image.copy()
    image[..., 1] = np.arange(image.shape[1]) % 256
    (lifted,) = lift([view.instance(1)], image, replace(view.scene, transform=None))
    assert lifted.points.dtype == np.float32 and lifted.colours.dtype == np.uint8
    column = np.rint(lifted.points[:, 0] / lifted.points[:, 2] * SMALL.k[0] + SMALL.k[2])
    assert (lifted.colours[:, 1] == column % 256).all() and (lifted.colours[:, 0] == 70).all()


# What is visible


def test_a_free_thing_is_wholly_visible_though_the_table_before_it_is_nearer() -> None:
    for elevation in (12, 42, 75):
        assert lift_one(single("box", elevation)[1]).visible > 0.99


def test_what_the_images_edge_cuts_is_not_visible() -> None:
    thing = Thing("box", block((0.08, 0.08, 0.08)), (0.08, 0.08, 0.08))
    view = look([thing], camera_pose(40, 0, 0.6, (0, 0.46, 0)), SMALL)
    mask = view.labels == 1
    assert mask[:, 0].any() or mask[:, -1].any()
    assert 0.4 < lift_one(view).visible < 0.95


def test_what_something_nearer_hides_is_not_visible() -> None:
    thing = Thing("box", block((0.08, 0.08, 0.08)), (0.08, 0.08, 0.08))
    before = Thing("before", block((0.02, 0.05, 0.06)), (0.02, 0.05, 0.06), at=(0.12, 0.03))
    view = look([thing, before], camera_pose(25, 0, 0.6), SMALL)
    hidden, hider = lift_all(view)
    assert 0.4 < hidden.visible < 0.95 and hider.visible > 0.97


# Grasp hints


@pytest.mark.parametrize("name", ["box", "flat box", "cylinder", "lying cylinder", "bottle"])
def test_hints_are_right_handed_poses_in_the_target_frame(name: str) -> None:
    hints = lift_one(single(name)[1]).hints
    assert hints
    for each in hints:
        assert np.linalg.norm(each.pose.orientation) == pytest.approx(1)
        assert np.linalg.det(rotation_of(each.pose.orientation)) == pytest.approx(1)
        assert 0 < each.width < 0.2


def test_the_centroid_is_grasped_from_above_across_the_shorter_side() -> None:
    thing, view = single("box")
    grasp = hint(lift_one(view), "centroid")
    turn = rotation_of(grasp.pose.orientation)
    np.testing.assert_allclose(grasp.pose.position, thing.centre, atol=0.003)
    np.testing.assert_allclose(turn[:, 2], (0, 0, -1), atol=1e-3)
    assert abs(turn[:, 0] @ thing.turn[:, 1]) > 0.999
    assert grasp.width == pytest.approx(0.05, abs=0.003)


def test_the_top_plane_is_the_middle_of_the_top() -> None:
    thing, view = single("box")
    grasp = hint(lift_one(view), "top_plane")
    turn = rotation_of(grasp.pose.orientation)
    np.testing.assert_allclose(grasp.pose.position, (*thing.centre[:2], thing.size[2]), atol=0.004)
    np.testing.assert_allclose(turn[:, 2], (0, 0, -1), atol=1e-3)
    assert abs(turn[:, 0] @ thing.turn[:, 1]) > 0.99 and grasp.width == pytest.approx(0.05, abs=0.004)


def test_the_top_plane_of_steps_is_the_larger_one() -> None:
    low, high = block((0.10, 0.08, 0.03)), block((0.03, 0.08, 0.06), (-0.035, 0, 0.03))
    thing = Thing("steps", lambda p: np.minimum(low(p), high(p)), (0.10, 0.08, 0.06))
    lifted = lift_one(look([thing], camera_pose(50, 0, 0.6), SMALL))
    np.testing.assert_allclose(hint(lifted, "top_plane").pose.position, (0.015, 0, 0.03), atol=0.005)


def test_the_top_plane_of_an_upright_book_is_its_edge_though_more_pixels_show_its_cover() -> None:
    book = Thing("book", block((0.012, 0.12, 0.10)), (0.012, 0.12, 0.10))
    grasp = hint(lift_one(look([book], camera_pose(20, 0, 0.6), CAMERA)), "top_plane")
    assert grasp.pose.position[2] == pytest.approx(0.10, abs=0.004) and grasp.width < 0.02


@pytest.mark.parametrize("name", ["cone", "large ball"])
def test_what_has_no_flat_top_has_no_top_plane(name: str) -> None:
    assert "top_plane" not in {h.name for h in lift_one(single(name)[1]).hints}


def test_an_upright_bottle_is_grasped_from_the_cameras_side() -> None:
    thing, view = single("bottle")
    grasp = hint(lift_one(view), "long_axis")
    turn = rotation_of(grasp.pose.orientation)
    assert view.scene.transform is not None
    sight = thing.centre - view.scene.transform.translation
    np.testing.assert_allclose(grasp.pose.position, thing.centre, atol=0.003)
    assert abs(turn[2, 2]) < 0.01 and turn[:, 2] @ (*sight[:2], 0) / np.hypot(*sight[:2]) > 0.7
    assert abs(turn[2, 0]) < 0.01 and grasp.width == pytest.approx(0.05, rel=0.1)


def test_a_lying_thing_is_grasped_from_above_across_its_axis() -> None:
    thing, view = single("lying cylinder")
    turn = rotation_of(hint(lift_one(view), "long_axis").pose.orientation)
    np.testing.assert_allclose(turn[:, 2], (0, 0, -1), atol=1e-3)
    assert abs(turn[:, 0] @ thing.turn[:, 0]) < 0.05


def test_a_cube_has_no_long_axis() -> None:
    assert {h.name for h in lift_one(single("cube")[1]).hints} == {"centroid", "top_plane"}


# Frames and scales


def move_of(yaw: float, shift: tuple[float, float, float]) -> Transform:
    return Transform(rotation_of((0, 0, np.sin(yaw / 2), np.cos(yaw / 2))), np.array(shift))


@settings(deadline=None, max_examples=15)
@given(st.floats(-3, 3), st.tuples(*[st.floats(-5, 5)] * 3), st.sampled_from(["box", "large ball", "bottle"]))
def test_another_target_frame_moves_everything_alike(yaw: float, shift: tuple[float, float, float], name: str) -> None:
    _, view = single(name)
    here, move, world = lift_one(view), move_of(yaw, shift), view.scene.transform
    assert world is not None
    whole = Transform(move.rotation @ world.rotation, move.points(world.translation))
    there = lift_one(view, transform=whole)
    assert here.box is not None and there.box is not None and here.support is not None and there.support is not None
    np.testing.assert_allclose(there.points, move.points(here.points), atol=1e-5)
    np.testing.assert_allclose(there.centroid, move.points(np.array(here.centroid)), atol=1e-5)
    np.testing.assert_allclose(there.box.size, here.box.size, atol=1e-6)
    for a, b in zip(
        (there.box.center, *(h.pose for h in there.hints)),
        (here.box.center, *(h.pose for h in here.hints)),
        strict=True,
    ):
        moved = move.pose(b)
        np.testing.assert_allclose(a.position, moved.position, atol=1e-5)
        np.testing.assert_allclose(rotation_of(a.orientation), rotation_of(moved.orientation), atol=1e-5)
    np.testing.assert_allclose(there.support.heights(there.points), here.support.heights(here.points), atol=1e-5)
    assert there.visible == here.visible


@settings(deadline=None, max_examples=15)
@given(st.floats(0.7, 2.0), st.sampled_from(["box", "cylinder", "bottle"]))
def test_a_scene_of_another_scale_gives_a_box_of_that_scale(scale: float, name: str) -> None:
    _, view = single(name)
    one = lift_one(view, transform=None)
    other = lift_one(view, transform=None, depth=view.scene.depth * np.float32(scale))
    assert one.box is not None and other.box is not None
    np.testing.assert_allclose(other.box.size, np.array(one.box.size) * scale, rtol=0.03)
    np.testing.assert_allclose(other.box.center.position, np.array(one.box.center.position) * scale, atol=0.003 * scale)


def test_what_gravity_says_and_what_the_plane_says_is_the_same_box() -> None:
    _, view = single("box")
    seen, world = lift_one(view, transform=None), view.scene.transform
    assert seen.box is not None and world is not None
    box = lift_one(view).box
    assert box is not None
    np.testing.assert_allclose(world.pose(seen.box.center).position, box.center.position, atol=1e-3)
    np.testing.assert_allclose(seen.box.size, box.size, atol=1e-3)


# Refusals


def status_of(view: View, mask: np.ndarray | None = None, **changes: object) -> Lifted:
    (lifted,) = lift_all(view, [view.labels == 1 if mask is None else mask], **changes)
    assert lifted.message and len(lifted.message) < 300 and lifted.box is None and not lifted.hints
    assert lifted.points.shape == (0, 3) and lifted.colours.shape == (0, 3)
    return lifted


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e30])
def test_a_mask_without_usable_depth_has_too_many_holes(value: float) -> None:
    _, view = single("box")
    depth = np.where(view.labels == 1, np.float32(value), view.scene.depth)
    lifted = status_of(view, depth=depth)
    assert lifted.status == Status3D.TOO_MANY_HOLES and "100%" in lifted.message


def test_the_share_of_holes_decides() -> None:
    _, view = single("box")
    draw = np.random.default_rng(0).random(view.labels.shape)
    for share, status in ((0.5, Status3D.OK), (0.7, Status3D.TOO_MANY_HOLES)):
        depth = np.where(draw < share, np.float32(np.nan), view.scene.depth)
        assert lift_all(view, depth=depth)[0].status == status


def test_an_empty_mask_and_one_of_a_few_pixels_have_too_few_points() -> None:
    _, view = single("box")
    nothing = np.zeros(view.labels.shape, bool)
    assert "empty" in status_of(view, nothing).message
    few = nothing.copy()
    few[180, 320:330] = True
    lifted = status_of(view, few)
    assert lifted.status == Status3D.TOO_FEW_POINTS and "10 pixels" in lifted.message
    (enough,) = lift([instance_of(few)], view.image, view.scene, Gates(min_points=5))
    assert enough.status == Status3D.OK


def test_one_refusal_leaves_the_others_as_they_are() -> None:
    _, view = single("box")
    nothing = np.zeros(view.labels.shape, bool)
    first, second = lift_all(view, [nothing, view.labels == 1])
    assert (first.status, second.status) == (Status3D.TOO_FEW_POINTS, Status3D.OK)


def test_sizes_that_differ_are_unaligned() -> None:
    _, view = single("box")
    assert status_of(view, depth=view.scene.depth[:180]).status == Status3D.UNALIGNED
    assert status_of(view, camera=CAMERA).status == Status3D.UNALIGNED
    assert status_of(view, np.ones((180, 320), bool)).status == Status3D.UNALIGNED
    assert lift([view.instance(1)], view.image[:90], view.scene)[0].status == Status3D.UNALIGNED


@pytest.mark.parametrize(
    "transform",
    [
        Transform(np.full((3, 3), np.nan), np.zeros(3)),
        Transform(np.eye(3), np.array([np.inf, 0, 0])),
        Transform(np.diag([1.0, 1, -1]), np.zeros(3)),
    ],
)
def test_a_transform_that_is_not_rigid_is_none(transform: Transform) -> None:
    assert status_of(single("box")[1], transform=transform).status == Status3D.NO_TRANSFORM


def finite(lifted: Lifted) -> bool:
    if lifted.box is None:
        return lifted.status != Status3D.OK
    numbers = [*lifted.box.size, *lifted.centroid, lifted.visible, *lifted.points.ravel()]
    for pose in (lifted.box.center, *(h.pose for h in lifted.hints)):
        numbers += [*pose.position, *pose.orientation]
    return bool(np.isfinite(numbers).all()) and 0 <= lifted.visible <= 1 and min(lifted.box.size) >= 0


TINY = Camera(40, 30, (50.0, 50.0, 20.0, 15.0))
DEPTHS = st.one_of(
    hnp.arrays(np.float32, (30, 40), elements=st.floats(width=32)),
    hnp.arrays(np.float32, (30, 40), elements=st.floats(0.5, 0.75, width=32)),
    st.sampled_from([0.5, 1.0, 1e-30, 3e38, 40.0, np.nan, np.inf]).map(lambda v: np.full((30, 40), v, np.float32)),
)


@settings(deadline=None, max_examples=150)
@given(DEPTHS, hnp.arrays(np.bool_, (30, 40)), st.booleans(), st.booleans())
def test_no_depth_and_no_mask_raises_anything(depth: np.ndarray, mask: np.ndarray, known: bool, bent: bool) -> None:
    camera = replace(TINY, d=(0.1, -0.2, 0.001, 0.002, 0.05)) if bent else TINY
    scene = Scene(depth, camera, "f", camera_pose(40, 0, 1) if known else None)
    image = np.zeros((30, 40, 3), np.uint8)
    masks = [mask, ~mask, np.ones_like(mask)]
    for lifted in lift([instance_of(m) for m in masks], image, scene, Gates(min_points=1, max_holes=1)):
        assert finite(lifted)


def test_what_is_left_of_a_cancelled_request_is_not_lifted() -> None:
    class AfterTwo(Cancel):
        looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks > 2

    view = tabletop(42)
    found = [view.instance(n) for n in range(1, 6)]
    ends = [lifted.status for lifted in lift(found, view.image, view.scene, cancel=AfterTwo())]
    assert ends == [Status3D.OK] * 2 + [Status3D.NOT_ASKED] * 3


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", ["flat", "line", "column", "point", "two points", "plane through the camera"])
def test_degenerate_clouds_have_boxes_of_numbers(kind: str, known: bool) -> None:
    depth, mask = np.full((30, 40), np.nan, np.float32), np.zeros((30, 40), bool)
    if kind == "flat":
        depth[:], mask[5:20, 5:30] = 1.0, True
    elif kind == "line":
        depth[15], mask[15] = 1.0, True
    elif kind == "column":
        depth[:, 20], mask[:, 20] = 1.0, True
    elif kind == "plane through the camera":
        depth[:, 20], mask[:, 20] = np.geomspace(0.1, 40, 30), True
    else:
        depth[15, 20], mask[15, 20] = 1.0, True
        if kind == "two points":
            depth[15, 21], mask[15, 21] = 1.0, True
    scene = Scene(depth, TINY, "f", camera_pose(40, 0, 1) if known else None)
    image = np.zeros((30, 40, 3), np.uint8)
    (lifted,) = lift([instance_of(mask)], image, scene, Gates(min_points=1))
    assert finite(lifted) and (lifted.status == Status3D.OK or kind == "plane through the camera")


def test_depth_that_shows_no_surface_is_refused() -> None:
    _, view = single("box")
    scatter = np.random.default_rng(0).uniform(0.2, 3.0, view.scene.depth.shape).astype(np.float32)
    (lifted,) = lift_all(view, [view.labels == 1], depth=view.scene.depth * scatter)
    assert lifted.status is Status3D.TOO_FEW_POINTS and "scatters" in lifted.message


def test_the_z_axis_of_a_camera_is_not_taken_for_up() -> None:
    """The same scene in a frame that lies on its side: what is up comes from the table, not from the frame."""
    thing, view = single("box")
    turned = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    side = Transform(turned @ view.scene.transform.rotation, turned @ view.scene.transform.translation)  # type: ignore[union-attr]
    box = lift_one(view, transform=side, frame_id="other_optical_frame").box
    assert box is not None and np.allclose(sorted(box.size), sorted(thing.size), atol=0.004)


def test_a_fault_with_one_instance_takes_3d_from_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    view = tabletop(40)
    whole = lifting._lift_one
    seen: list[object] = []

    def broken(*what: object) -> Lifted:
        seen.append(what)
        return whole(*what) if len(seen) != 2 else 1 / 0  # type: ignore[arg-type,return-value]

    monkeypatch.setattr(lifting, "_lift_one", broken)
    statuses = [one.status for one in lift_all(view)]
    assert statuses[1] is Status3D.ERROR and statuses.count(Status3D.OK) == len(statuses) - 1
