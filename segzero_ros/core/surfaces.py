"""Which pixels of a mask measured the object, how noisy they are, and the plane that it stands on.

Depth arrays here are windows of the image: float32 (h, w), metres along the optical axis, NaN where nothing was
measured. Masks are bool (h, w).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.contract import Mask
from segzero_ros.core.space import Plane, Vector

Depth = NDArray[np.float32]
Coordinates = NDArray[np.float64]

NOISY = 0.0007  # metres: steps of a millimetre, and nothing else, have less
MIN_PLANE_POINTS = 60
MIN_PLANE_SHARE = 0.25  # of the points around the object
_TRIALS = 96
_BORDER = 6  # pixels by which a segmenter's mask may be too large
_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # half of the eight neighbours; the others are these seen from there


def noise_of(depth: Depth, mask: Mask) -> float:
    """Standard deviation of the depth, metres: from second differences along rows, which slopes do not enter."""
    rows = depth[:: max(1, len(depth) // 100)]
    inside = mask[:: max(1, len(depth) // 100)]
    triple = inside[:, :-2] & inside[:, 1:-1] & inside[:, 2:]
    bends = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:])[triple]
    bends = bends[np.isfinite(bends)]
    return float(1.4826 * np.median(bends) / np.sqrt(6)) if len(bends) >= 20 else 0.0


def eroded(mask: Mask, radius: int) -> Mask:
    """Without the pixels that are nearer than `radius` to what is outside; the window's edges count as inside."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.erode(mask.view(np.uint8), kernel).view(np.bool_)


def dilated(mask: Mask, radius: int) -> Mask:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.view(np.uint8), kernel).view(np.bool_)


def core_of(mask: Mask, measured: Mask) -> Mask:
    """The measured pixels well inside the mask; thin things, of which erosion leaves little, are all core."""
    radius = int(np.clip(0.06 * np.sqrt(np.count_nonzero(mask)), 1, 8))
    enough = 0.25 * np.count_nonzero(measured)
    for r in (radius, 1):
        core = eroded(mask, r) & measured
        if np.count_nonzero(core) >= enough:
            return core
    return measured


def without_flying(depth: Depth, measured: Mask, step: float) -> Mask:
    """The measured pixels of which at least half of the measured neighbours are as deep, to `step` metres.

    At an edge a camera mixes two depths into a point in mid-air; such points have company along the edge at most.
    """
    alike, around = np.zeros(depth.shape, np.uint8), np.zeros(depth.shape, np.uint8)
    height, width = depth.shape
    for down, across in _STEPS:
        here = (slice(0, height - down), slice(max(0, -across), width - max(0, across)))
        there = (slice(down, height), slice(max(0, across), width + min(0, across)))
        both = measured[here] & measured[there]
        near = both & (np.abs(depth[here] - depth[there]) < step)
        for side in (here, there):
            around[side] += both
            alike[side] += near
    return measured & (2 * alike >= around)


def in_depth_with(depth: Depth, measured: Mask, core: Mask, gap: float) -> Mask:
    """The measured pixels whose depths hang together with the core's.

    Depths of all are cut where a gap of about `gap` metres is (next to) empty; of the parts those count that hold the
    most core pixels, or three tenths of them. So a long thing stays whole, as it has depths all along, and what is
    seen past the mask's edge or through a hole goes.
    """
    values = depth[measured]
    if not len(values):
        return measured
    low = float(values.min())
    size = max(gap / 2, (float(values.max()) - low) / 20_000)
    bins = ((depth - low) / size)[measured].astype(np.int32)
    counts = np.bincount(bins)
    core_counts = np.bincount(bins[core[measured]], minlength=len(counts))
    floor = 0.01 * core_counts.sum() / max(1, np.count_nonzero(core_counts))
    full = np.flatnonzero(counts > floor)
    if not len(full) or not core_counts.any():
        return measured
    part_of = np.cumsum(np.concatenate(([0], np.diff(full) > 2)))  # one empty bin is none
    held = np.bincount(part_of, weights=core_counts[full])
    chosen = full[(held >= 0.3 * held.sum())[part_of] | (part_of == held.argmax())]
    takes = np.zeros(len(counts), np.bool_)
    takes[chosen] = True
    kept = measured.copy()
    kept[measured] = takes[bins]
    return kept


def without_table(mask: Mask, kept: Mask, core: Mask, heights: NDArray[np.floating], tolerance: float) -> Mask:
    """Without the support plane's own pixels at the border of a mask that is too large.

    heights: (h, w), metres above the plane. A thing that is as flat as the plane stays as it is.
    """
    low = kept & (np.abs(heights) < tolerance)
    if 2 * np.count_nonzero(low & core) > np.count_nonzero(core):
        return kept
    return kept & ~(low & ~eroded(mask, _BORDER))


def smoothed(depth: Depth, kept: Mask, holes: Mask, noise: float) -> Depth:
    """Where pixels are kept, depth as a plane through the kept neighbours gives it, the more the noisier; else NaN.

    Of a noisy surface the holes amid or beside it are filled so, too: its outline is where cameras have most holes.
    """
    out = np.where(kept, depth, np.float32(np.nan))
    if noise <= NOISY:
        return out
    side = 2 * int(np.clip(noise / 0.0012, 1, 6)) + 1
    ys, xs = np.nonzero(kept | holes)
    y, x = np.mgrid[: depth.shape[0], : depth.shape[1]].astype(np.float64)
    y, x = (y - y.shape[0] / 2) / side, (x - x.shape[1] / 2) / side

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(
            cv2.boxFilter(values, cv2.CV_64F, (side, side), borderType=cv2.BORDER_CONSTANT)[ys, xs], float
        )

    one = kept.astype(np.float64)
    z = np.where(kept, depth, 0).astype(np.float64)
    n = mean(one)
    # Few neighbours, as at corners and beside holes, say little: what they leave noisy is left out.
    many = n >= min(0.4, 0.7 * float(np.median(n)))
    out[ys[~many], xs[~many]] = np.nan
    n = np.maximum(n, 1e-9)
    mx, my, mz = mean(one * x) / n, mean(one * y) / n, mean(z) / n
    xx, yy = mean(one * x * x) / n - mx * mx + 1e-3, mean(one * y * y) / n - my * my + 1e-3
    xy = mean(one * x * y) / n - mx * my
    xz, yz = mean(z * x) / n - mx * mz, mean(z * y) / n - my * mz
    det = xx * yy - xy * xy
    slope_x, slope_y = (xz * yy - yz * xy) / det, (yz * xx - xz * xy) / det
    plane = mz + slope_x * (x[ys, xs] - mx) + slope_y * (y[ys, xs] - my)
    out[ys[many], xs[many]] = plane[many]
    return out


def support_plane(
    points: Coordinates,
    *,
    above: Coordinates | None = None,
    up: Sequence[float] | None = None,
    viewpoint: Sequence[float] = (0.0, 0.0, 0.0),
    tolerance: float = 0.004,
    max_tilt: float = 15.0,
) -> Plane | None:
    """The plane that an object stands on, or None where there is none to be seen.

    points: (N, 3), metres, around the object. above: (M, 3) of the object, none of which lies far under the plane.
    up: unit vector where gravity is known; a plane that is tilted by more than `max_tilt` degrees is then a wall, not
    a support. viewpoint: where the camera stands, above the plane. tolerance: metres, of an inlier. The same points
    give the same plane.
    """
    points = np.asarray(points, np.float64)
    points = points[np.isfinite(points @ np.ones(3))]
    if len(points) < MIN_PLANE_POINTS:
        return None
    draw = np.random.default_rng(0)
    seen = points[draw.permutation(len(points))[:800]]
    eye = np.asarray(viewpoint, np.float64)
    a, b, c = seen[draw.integers(0, len(seen), (3, _TRIALS))]
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1)
    flat = lengths > 1e-7
    normals, a = normals[flat] / lengths[flat, None], a[flat]
    normals *= np.where(((eye - a) * normals).sum(1) < 0, -1, 1)[:, None]
    offsets = (normals * a).sum(1)
    good = np.ones(len(normals), np.bool_)
    if up is not None:
        # A slant within the noise of three points is no wall; what is fitted to all of them is judged below.
        good &= normals @ np.asarray(up) > np.cos(np.radians(max_tilt + 10))
    if above is not None and len(above):
        heights = above[:: max(1, len(above) // 200)] @ normals.T - offsets
        good &= (heights > -3 * tolerance).mean(0) > 0.95
    if not good.any():
        return None
    normals, offsets = normals[good], offsets[good]
    votes = (np.abs(seen @ normals.T - offsets) < tolerance).sum(0).astype(np.float64)
    if above is not None and len(above) and up is None:
        # Behind the thing is often a wall, as large as the table, but the thing does not touch it.
        low, high = np.quantile(heights[:, good], (0.02, 0.98), axis=0)
        votes[low > 0.02 + 0.25 * high] *= 0.5
    best = int(votes.argmax())
    return _fitted(points, normals[best], float(offsets[best]), eye, tolerance, up, max_tilt)


def _fitted(
    points: Coordinates,
    normal: Coordinates,
    offset: float,
    eye: Coordinates,
    tolerance: float,
    up: Sequence[float] | None,
    max_tilt: float,
) -> Plane | None:
    """Least squares over the inliers, three times, as each finds better ones."""
    residual, share = 0.0, 0.0
    for _ in range(3):
        inliers = np.abs(points @ normal - offset) < tolerance
        share = float(inliers.mean())
        if np.count_nonzero(inliers) < MIN_PLANE_POINTS or share < MIN_PLANE_SHARE:
            return None
        near = points[inliers]
        middle = mean_of(near)
        values, vectors = np.linalg.eigh((near - middle).T @ (near - middle) / len(near))
        if values[1] < 4 * values[0]:
            return None  # no wider than thick: a line or a blob
        normal = vectors[:, 0]
        normal = -normal if (eye - middle) @ normal < 0 else normal
        offset = float(middle @ normal)
        residual = float(np.sqrt(max(values[0], 0.0)))
    if up is not None and normal @ np.asarray(up) < np.cos(np.radians(max_tilt)):
        return None
    return Plane(vector(normal), offset, residual, share)


def mean_of(points: NDArray[np.floating]) -> Coordinates:
    """(D,) of (N, D); `points.mean(0)` takes twenty times as long."""
    return np.asarray(np.full(len(points), 1 / len(points)) @ points)


def vector(values: NDArray[np.floating]) -> Vector:
    x, y, z = (float(v) for v in values)
    return x, y, z
