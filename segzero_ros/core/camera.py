"""Camera models: sensor_msgs/CameraInfo's fields to a Camera, pixels to rays and back, images without distortion.

OpenCV's own functions do the distortion. Its inverse is an iteration that need not converge, and far from the centre
the polynomials may fold; every ray is therefore projected back, and a pixel that does not return has no ray: NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.contract import Mask
from segzero_ros.core.space import Camera, LiftError, Status3D
from segzero_ros.core.text import one_line

# OpenCV reads the same list in each of these lengths.
COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14)}
OFF_CENTRE = 0.2  # of a size, how far from its middle a principal point may lie
_STOP = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-5)  # iterations; pixels
_RETURNS = 0.1  # pixels: a ray that comes back farther from its pixel is none


def camera_of(
    width: int,
    height: int,
    k: Sequence[float],
    d: Sequence[float],
    model: str,
    *,
    binning: tuple[int, int] = (0, 0),
    roi: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Camera:
    """The camera of the images that come with a CameraInfo.

    width, height, k, d, model: as in the message, so of the whole sensor. binning: (x, y), 0 counts as 1. roi:
    (x_offset, y_offset, width, height) in pixels of the sensor, all 0: the whole. As in ROS's image_geometry the
    window is cut first and the rest divided by the binning. Raises LiftError(BAD_CAMERA_INFO).
    """
    if width < 1 or height < 1:
        raise _bad(f"the camera_info has the size {width} x {height}")
    fx, fy, cx, cy = _intrinsics(width, height, k)
    coefficients = _coefficients(d, model)
    x, y, w, h = roi
    if not w and not h:
        w, h = width - x, height - y
    if min(x, y) < 0 or min(w, h) < 1 or x + w > width or y + h > height:
        raise _bad(f"the camera_info's region of interest {roi} is not inside {width} x {height}")
    bx, by = (max(b, 1) for b in binning)
    if w // bx < 1 or h // by < 1:
        raise _bad(f"the camera_info's binning {bx} x {by} leaves nothing of {w} x {h}")
    camera = Camera(w // bx, h // by, (fx / bx, fy / by, (cx - x) / bx, (cy - y) / by), coefficients)
    if coefficients:
        _refuse_useless(camera)
    return camera


def rays(camera: Camera, pixels: NDArray[Any]) -> NDArray[np.float64]:
    """(N, 2) pixels (x, y) to (N, 3) points with z = 1; NaN where the distortion cannot be undone."""
    pixels = np.asarray(pixels, np.float64).reshape(-1, 2)
    fx, fy, cx, cy = camera.k
    out = np.ones((len(pixels), 3))
    if not camera.d:
        out[:, 0], out[:, 1] = (pixels[:, 0] - cx) / fx, (pixels[:, 1] - cy) / fy
        return out
    if len(pixels):
        matrix, d = _matrix(camera), np.array(camera.d)
        out[:, :2] = cv2.undistortPointsIter(pixels[:, None], matrix, d, np.eye(3), np.eye(3), _STOP)[:, 0]
        with np.errstate(invalid="ignore", over="ignore"):
            there = np.abs(project(camera, out) - pixels).max(1)
            # A root of the polynomial on the other side of the centre returns, too.
            across = ((pixels - (cx, cy)) / (fx, fy) * out[:, :2]).sum(1) < 0
        out[~(there < _RETURNS) | across] = np.nan  # z, too: nobody takes such a ray for one
    return out


def project(camera: Camera, points: NDArray[Any]) -> NDArray[np.float64]:
    """(N, 3) metres in the camera's optical frame to (N, 2) pixels (x, y); NaN where z is not above 0."""
    points = np.asarray(points, np.float64).reshape(-1, 3)
    out = np.full((len(points), 2), np.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        front = np.isfinite(points @ np.ones(3)) & (points[:, 2] > 0)
    seen = points[front]
    if not camera.d:
        fx, fy, cx, cy = camera.k
        with np.errstate(over="ignore"):
            out[front] = seen[:, :2] / seen[:, 2:] * (fx, fy) + (cx, cy)
    elif len(seen):
        none = np.zeros(3)
        out[front] = cv2.projectPoints(seen[:, None], none, none, _matrix(camera), np.array(camera.d))[0][:, 0]
    return out


def ray_window(camera: Camera, window: tuple[slice, slice]) -> NDArray[np.float32]:
    """(h, w, 2): x and y of the ray with z = 1 of each pixel of a window: rows and columns, also with steps."""
    rows, columns = window
    if camera.d:
        return _ray_map(camera)[rows, columns]
    fx, fy, cx, cy = camera.k
    xs, ys = np.arange(camera.width)[columns], np.arange(camera.height)[rows]
    out = np.empty((len(ys), len(xs), 2), np.float32)
    out[..., 0] = (xs - cx) / fx
    out[..., 1] = ((ys - cy) / fy)[:, None]
    return out


def undistort_depth(depth: NDArray[np.float32], camera: Camera) -> tuple[NDArray[np.float32], Camera]:
    """Depth (H, W), and the camera without distortion that it then belongs to; same size, same k.

    Each pixel takes its nearest neighbour's value, as a mean across an edge would be a point in mid-air; what was not
    measured or not seen is NaN. Raises LiftError(UNALIGNED) if the depth has not the camera's size.
    """
    plain = Camera(camera.width, camera.height, camera.k)
    return _undistort(depth, camera, np.nan), plain


def undistort_mask(mask: Mask, camera: Camera) -> Mask:
    """(H, W) as undistort_depth does it; what was not seen is not in the mask."""
    return _undistort(mask.view(np.uint8), camera, 0).view(np.bool_)


def _undistort(image: NDArray[Any], camera: Camera, outside: float) -> NDArray[Any]:
    if image.shape != (camera.height, camera.width):
        raise LiftError(
            Status3D.UNALIGNED,
            f"the image is {image.shape[1]} x {image.shape[0]} and the camera's {camera.width} x {camera.height}",
        )
    if not camera.d:
        return image
    across, down = _undistortion(camera)
    return cv2.remap(image, across, down, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=outside)


# A camera's maps stay: it is the same for every frame, and they take a third of a second.
@lru_cache(maxsize=2)
def _ray_map(camera: Camera) -> NDArray[np.float32]:
    """(H, W, 2), rows at a time, so that no more than the result is large."""
    out = np.empty((camera.height, camera.width, 2), np.float32)
    pixels = np.zeros((camera.width, 2))
    pixels[:, 0] = np.arange(camera.width)
    for row in range(camera.height):
        pixels[:, 1] = row
        out[row] = rays(camera, pixels)[:, :2]
    out.flags.writeable = False
    return out


@lru_cache(maxsize=2)
def _undistortion(camera: Camera) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where in the distorted image each pixel of the plain one lies; far outside where the model folds."""
    plain = Camera(camera.width, camera.height, camera.k)
    across, down = (np.empty((camera.height, camera.width), np.float32) for _ in range(2))
    for row in range(camera.height):
        straight = np.ones((camera.width, 3))
        straight[:, :2] = ray_window(plain, (slice(row, row + 1), slice(0, camera.width)))[0]
        bent = project(camera, straight)
        inside = (np.abs(bent) < 4 * (camera.width + camera.height)).all(1)  # the rest overflows in remap
        back = np.full((camera.width, 3), np.nan)
        back[inside] = rays(camera, bent[inside])
        with np.errstate(invalid="ignore"):
            good = np.abs(back - straight).max(1) * max(camera.k[:2]) < 1
        across[row], down[row] = np.where(good[:, None], bent, -10).T
    return across, down


def _matrix(camera: Camera) -> NDArray[np.float64]:
    fx, fy, cx, cy = camera.k
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def _intrinsics(width: int, height: int, k: Sequence[float]) -> tuple[float, float, float, float]:
    values = [float(v) for v in k]
    if len(values) != 9:
        raise _bad(f"the camera_info's k has {len(values)} numbers, not 9")
    if not np.isfinite(values).all():
        raise _bad("the camera_info's k holds a number that is not finite")
    fx, skew, cx, a, fy, cy, b, c, one = values
    if fx <= 0 or fy <= 0:
        raise _bad(f"the camera_info has the focal lengths {fx:g} and {fy:g}: the camera is not calibrated")
    if any((skew, a, b, c)) or one != 1:
        raise _bad("the camera_info's k is not of the form fx 0 cx, 0 fy cy, 0 0 1, row by row")
    # Outside of this, k belongs to another size or to another unit. 1/20 of the width is a view of 168 degrees.
    for focal, centre, size, name in ((fx, cx, width, "width"), (fy, cy, height, "height")):
        if not size / 20 < focal < 1000 * size:
            raise _bad(f"the camera_info's focal length of {focal:g} pixels does not go with its {name} of {size}")
        # Lenses are within a few per cent of the middle; a quarter is that of an image of half or twice the size.
        if abs(centre - size / 2) > OFF_CENTRE * size:
            raise _bad(
                f"the camera_info's principal point at {centre:g} does not go with its {name} of {size}: k is of "
                "another size, or a window was cut out of the image and not told as its region of interest"
            )
    return fx, fy, cx, cy


def _coefficients(d: Sequence[float], model: str) -> tuple[float, ...]:
    """() where nothing is distorted."""
    if model and model not in COEFFICIENTS:
        known = " and ".join(COEFFICIENTS)
        raise _bad(f"the distortion model {one_line(model, 60)!r} is not taken: only {known} are")
    values = [float(v) for v in d]
    if not any(values):
        return ()
    if not model:
        raise _bad("the camera_info has distortion coefficients and no distortion model")
    if len(values) not in COEFFICIENTS[model]:
        wanted = ", ".join(map(str, COEFFICIENTS[model]))
        raise _bad(f"the camera_info has {len(values)} distortion coefficients, and {model} takes {wanted}")
    if not np.isfinite(values).all():
        raise _bad("the camera_info's d holds a number that is not finite")
    return tuple(values)


def _refuse_useless(camera: Camera) -> None:
    """Coefficients of another camera, or in another order, leave most pixels without a ray."""
    grid = np.meshgrid(np.linspace(0, camera.width - 1, 16), np.linspace(0, camera.height - 1, 16))
    if np.isnan(rays(camera, np.dstack(grid).reshape(-1, 2))[:, 0]).mean() > 0.5:
        raise _bad("the camera_info's distortion cannot be undone for most pixels")


def _bad(sentence: str) -> LiftError:
    return LiftError(Status3D.BAD_CAMERA_INFO, sentence)
