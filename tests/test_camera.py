"""The camera model: what a CameraInfo says, and pixels to rays and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzero_ros.core.camera import camera_of, project, ray_window, rays, undistort_depth, undistort_mask
from segzero_ros.core.space import Camera, LiftError, Plane, Pose, Status3D, Transform, quaternion_of, rotation_of

K = (900.0, 0.0, 640.0, 0.0, 890.0, 350.0, 0.0, 0.0, 1.0)
PLUMB_BOB = (0.1, -0.2, 0.001, -0.002, 0.05)
RATIONAL = (0.5, 0.1, 0.001, -0.0005, 0.01, 0.8, 0.1, 0.02)
MODELS = (((), ""), (PLUMB_BOB, "plumb_bob"), (PLUMB_BOB[:4], "plumb_bob"), (RATIONAL, "rational_polynomial"))


def refusal(*arguments: object, **named: object) -> str:
    with pytest.raises(LiftError) as caught:
        camera_of(*arguments, **named)  # type: ignore[arg-type]
    assert caught.value.status == Status3D.BAD_CAMERA_INFO
    assert len(caught.value.message) < 200 and "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(("d", "model"), MODELS)
@settings(deadline=None)
@given(
    pixels=st.lists(st.tuples(st.floats(0, 1279), st.floats(0, 719)), min_size=1, max_size=20),
    depth=st.floats(0.1, 20),
)
def test_a_point_on_a_pixels_ray_is_seen_at_that_pixel(
    d: tuple[float, ...], model: str, pixels: list[tuple[float, float]], depth: float
) -> None:
    camera = camera_of(1280, 720, K, d, model)
    np.testing.assert_allclose(project(camera, rays(camera, np.array(pixels)) * depth), pixels, atol=0.1)


@pytest.mark.parametrize(("d", "model"), MODELS)
def test_the_rays_of_a_window_are_those_of_its_pixels(d: tuple[float, ...], model: str) -> None:
    camera = camera_of(160, 90, [v / 8 for v in K[:8]] + [1], d, model)
    window = ray_window(camera, (slice(20, 50), slice(100, 160)))
    xs, ys = np.meshgrid(np.arange(100, 160), np.arange(20, 50))
    expected = rays(camera, np.dstack((xs, ys)).reshape(-1, 2))[:, :2].reshape(30, 60, 2)
    np.testing.assert_allclose(window, expected, atol=1e-6)


def test_a_ray_without_distortion_is_pixel_minus_centre_over_focal_length() -> None:
    camera = camera_of(1280, 720, K, (), "plumb_bob")
    np.testing.assert_allclose(rays(camera, np.array([[640, 350], [1540, 1240]])), [[0, 0, 1], [1, 1, 1]])


def test_what_is_behind_the_camera_or_no_number_is_seen_nowhere() -> None:
    for d, model in MODELS:
        camera = camera_of(1280, 720, K, d, model)
        nowhere = project(camera, np.array([[0, 0, -1], [0, 0, 0], [np.nan, 0, 1], [np.inf, 0, 1]]))
        assert np.isnan(nowhere).all()
        assert project(camera, np.zeros((0, 3))).shape == (0, 2) and rays(camera, np.zeros((0, 2))).shape == (0, 3)


def test_a_pixel_whose_distortion_cannot_be_undone_has_no_ray() -> None:
    camera = camera_of(1280, 720, (800, 0, 640, 0, 800, 360, 0, 0, 1), (-0.4, 0, 0, 0, 0), "plumb_bob")
    corner, centre = rays(camera, np.array([[0, 0], [640, 360]]))
    assert np.isnan(corner[:2]).all() and np.allclose(centre, [0, 0, 1])


def test_the_window_is_cut_before_the_rest_is_binned_as_in_image_geometry() -> None:
    camera = camera_of(1280, 720, K, PLUMB_BOB, "plumb_bob", binning=(2, 2), roi=(200, 100, 800, 600))
    assert camera == Camera(400, 300, (450, 445, 220, 125), PLUMB_BOB)


def test_a_binning_of_0_counts_as_1_and_an_empty_window_as_the_whole() -> None:
    assert camera_of(1280, 720, K, (), "") == camera_of(1280, 720, K, (), "", binning=(1, 1), roi=(0, 0, 1280, 720))


@pytest.mark.parametrize("model", ["", "plumb_bob", "rational_polynomial"])
@pytest.mark.parametrize("d", [(), (0.0,) * 5, (0.0,) * 8])
def test_coefficients_that_are_all_0_are_no_distortion(model: str, d: tuple[float, ...]) -> None:
    assert camera_of(1280, 720, K, d, model).d == ()


@pytest.mark.parametrize("model", ["equidistant", "fisheye", "kannala_brandt4", "brown_conrady", "Plumb Bob"])
def test_other_models_are_refused_by_name_whatever_their_coefficients(model: str) -> None:
    for d in ((), (0.0,) * 4, (0.1,) * 4):
        assert repr(model) in refusal(1280, 720, K, d, model)


def test_a_models_name_is_shown_bounded_and_without_what_a_terminal_obeys() -> None:
    assert "\x1b" not in refusal(1280, 720, K, (), "\x1b[2J\n" + "x" * 10_000)


@pytest.mark.parametrize(
    ("d", "model", "words"),
    [
        ((0.1,) * 6, "plumb_bob", "6 distortion coefficients"),
        ((0.1,), "plumb_bob", "1 distortion coefficients"),
        ((0.1,) * 5, "rational_polynomial", "takes 8, 12, 14"),
        ((0.1, np.nan, 0, 0, 0), "plumb_bob", "not finite"),
        ((0.1, 0, 0, 0, 0), "", "no distortion model"),
        ((1e300,) * 5, "plumb_bob", "cannot be undone"),
    ],
)
def test_coefficients_that_are_none_of_the_models_are_refused(d: tuple[float, ...], model: str, words: str) -> None:
    assert words in refusal(1280, 720, K, d, model)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, 0.0, "not calibrated"),
        (4, -900.0, "not calibrated"),
        (0, np.nan, "not finite"),
        (2, np.inf, "not finite"),
        (0, 0.7, "does not go with its width"),  # in widths instead of pixels
        (4, 1e9, "does not go with its height"),
        (2, 64000.0, "principal point"),
        (5, -900.0, "principal point"),
        (2, 320.0, "another size"),  # of images half as wide
        (2, 1280.0, "another size"),  # twice as wide
        (1, 3.0, "not of the form"),
        (6, 640.0, "not of the form"),  # column by column
        (8, 0.0, "not of the form"),
    ],
)
def test_a_matrix_that_is_no_cameras_is_refused(place: int, value: float, words: str) -> None:
    k = list(K)
    k[place] = value
    assert words in refusal(1280, 720, k, (), "")


def test_sizes_windows_and_binnings_that_leave_no_image_are_refused() -> None:
    assert "0 x 720" in refusal(0, 720, K, (), "")
    assert "not 9" in refusal(1280, 720, K[:8], (), "")
    assert "region of interest" in refusal(1280, 720, K, (), "", roi=(1000, 0, 400, 100))
    assert "region of interest" in refusal(1280, 720, K, (), "", roi=(0, 0, 400, 0))
    assert "binning" in refusal(1280, 720, K, (), "", binning=(2**31, 1))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-5, 2**32),
    st.integers(-5, 2**32),
    st.lists(st.floats(), max_size=10),
    st.lists(st.floats(), max_size=15),
    st.sampled_from(["", "plumb_bob", "rational_polynomial"]),
    st.tuples(*[st.integers(-1, 2**32)] * 4),
)
def test_whatever_a_camera_info_holds_it_is_a_camera_or_a_refusal(
    width: int, height: int, k: list[float], d: list[float], model: str, roi: tuple[int, int, int, int]
) -> None:
    for matrix in (k, K):
        try:
            camera = camera_of(width, height, matrix, d, model, roi=roi)
        except LiftError as error:
            assert error.status == Status3D.BAD_CAMERA_INFO
        else:
            assert camera.width > 0 and np.isfinite(camera.k).all()


@pytest.mark.parametrize(("d", "model"), MODELS[1:])
def test_depth_without_distortion_is_where_the_plain_camera_sees_the_point(d: tuple[float, ...], model: str) -> None:
    camera = camera_of(320, 180, [v / 4 for v in K[:8]] + [1], d, model)
    xs, ys = np.meshgrid(np.arange(320), np.arange(180))
    directions = rays(camera, np.dstack((xs, ys)).reshape(-1, 2))
    # A slanted plane z = 1 + 0.5 x + 0.2 y, seen by the distorted camera.
    depth = (1 / (1 - directions @ (0.5, 0.2, 0))).reshape(180, 320).astype(np.float32)
    plain_depth, plain = undistort_depth(depth, camera)
    straight = rays(plain, np.dstack((xs, ys)).reshape(-1, 2))
    expected = (1 / (1 - straight @ (0.5, 0.2, 0))).reshape(180, 320)
    assert plain == replace(camera, d=()) and plain_depth.dtype == np.float32
    seen = np.isfinite(plain_depth)
    assert seen.mean() > 0.85
    assert np.abs(plain_depth - expected)[seen].max() < 0.008  # half a pixel along the slant; a whole one is 0.0125


def test_no_pixel_of_undistorted_depth_or_mask_is_a_mixture_and_holes_stay() -> None:
    camera = camera_of(1280, 720, K, PLUMB_BOB, "plumb_bob")
    depth = np.full((720, 1280), 0.5, np.float32)
    depth[300:400, 600:700] = 2.0
    depth[100:200, 100:300] = np.nan
    plain, _ = undistort_depth(depth, camera)
    assert set(np.unique(plain[np.isfinite(plain)])) == {0.5, 2.0}
    assert np.isnan(plain[130:170, 150:250]).all()
    mask = undistort_mask(depth == 2, camera)
    assert mask.dtype == np.bool_ and (mask == (plain == 2)).all()


def test_depth_of_a_camera_without_distortion_stays_as_it_is() -> None:
    camera = camera_of(1280, 720, K, (), "")
    depth = np.ones((720, 1280), np.float32)
    assert undistort_depth(depth, camera) == (depth, camera)


def test_depth_of_another_size_is_unaligned() -> None:
    camera = camera_of(1280, 720, K, PLUMB_BOB, "plumb_bob")
    with pytest.raises(LiftError, match="640 x 360") as caught:
        undistort_depth(np.ones((360, 640), np.float32), camera)
    assert caught.value.status == Status3D.UNALIGNED


QUATERNIONS = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1)


@settings(deadline=None)  # the first one imports scipy
@given(QUATERNIONS)
def test_a_quaternion_and_its_matrix_are_the_same_turn(q: tuple[float, float, float, float]) -> None:
    x, y, z, w = np.array(q) / np.linalg.norm(q)
    turn = rotation_of(q)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) > 0
    # The textbook's first column, so that order and sense of rotation are fixed.
    np.testing.assert_allclose(
        turn[:, 0], [1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)], atol=1e-9
    )
    again = np.array(quaternion_of(turn))
    assert again[3] >= 0 and np.isclose(np.linalg.norm(again), 1)
    np.testing.assert_allclose(rotation_of(tuple(again)), turn, atol=1e-9)


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    half = np.sqrt(0.5)
    np.testing.assert_allclose(rotation_of((0, 0, half, half)) @ (1, 0, 0), (0, 1, 0), atol=1e-12)


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.diag([1, 1, -1]), 2 * np.eye(3), np.full((3, 3), np.nan)])
def test_what_is_no_rotation_has_no_quaternion(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no rotation"):
        quaternion_of(matrix)


@pytest.mark.parametrize("quaternion", [(0, 0, 0, 0), (np.nan, 0, 0, 1), (np.inf, 0, 0, 1)])
def test_what_is_no_quaternion_has_no_rotation(quaternion: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="no rotation"):
        rotation_of(quaternion)


def test_a_transform_takes_points_and_poses_to_the_target() -> None:
    half = np.sqrt(0.5)
    move = Transform(rotation_of((0, 0, half, half)), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(move.points(np.array([[1, 0, 0]])), [[1, 3, 3]], atol=1e-12)
    pose = move.pose(Pose((1, 0, 0), (0, 0, 0, 1)))
    np.testing.assert_allclose((*pose.position, *pose.orientation), (1, 3, 3, 0, 0, half, half), atol=1e-12)


def test_a_planes_heights_are_metres_along_its_normal() -> None:
    np.testing.assert_allclose(
        Plane((0, 0, 1), 0.7).heights(np.array([[5, 5, 1.0], [0, 0, 0.7]])), [0.3, 0], atol=1e-12
    )
