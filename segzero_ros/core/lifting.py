"""Masks, depth and a camera to objects in space. NumPy and OpenCV only; works on windows of the image.

Nothing here raises for what a mask or a depth image holds: each instance has its own status and sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.boxes import Oriented, Seen, principal_box, upright_box
from segzero_ros.core.camera import ray_window
from segzero_ros.core.contract import Cancel, Image, Instance, Mask, PackedMask
from segzero_ros.core.geometry import union_mask
from segzero_ros.core.grasps import grasp_hints
from segzero_ros.core.space import (
    Box3D,
    Lifted,
    Plane,
    Pose,
    Scene,
    Status3D,
    Transform,
    is_rotation,
    quaternion_of,
)
from segzero_ros.core.surfaces import (
    NOISY,
    Depth,
    core_of,
    dilated,
    in_depth_with,
    mean_of,
    noise_of,
    smoothed,
    support_plane,
    vector,
    without_flying,
    without_table,
)
from segzero_ros.core.text import one_line

log = logging.getLogger(__name__)

OPTICAL = "_optical_frame"  # how names of cameras' frames end
_MARGIN = 10  # pixels around a mask's box: more than anything here erodes or looks for
_SURFACE = 5000  # points that a box is made of at most


@dataclass(frozen=True)
class Gates:
    """What is believed, and what an instance must have to be lifted.

    near, far: metres; depth outside of them is a hole. min_points: pixels with depth, of the mask and of what is left
    of it. max_holes: share of the mask's pixels without depth. gap: metres of depth, and relative_gap its share of the
    object's distance; the larger of the two (and six times the noise) parts what is not the object from it.
    max_noise: of the depth, share of the object's distance. max_tilt: degrees between gravity and a support plane's
    normal. ring: pixels around the mask's box in which a support plane is looked for, at least and at most.
    """

    near: float = 0.02
    far: float = 50.0
    min_points: int = 30
    max_holes: float = 0.6
    gap: float = 0.02
    relative_gap: float = 0.02
    max_noise: float = 0.08
    max_tilt: float = 15.0
    ring: tuple[int, int] = (24, 96)


@dataclass(frozen=True)
class _Patch:
    """The image at one mask and a little around it. rays: float32 (h, w, 2); core: pixels that surely are the object's;
    noise: of the depth there, metres.
    """

    window: tuple[slice, slice]
    depth: Depth  # NaN in holes
    rays: NDArray[np.float32]
    mask: Mask
    core: Mask
    noise: float


def lift(
    instances: Sequence[Instance],
    image: Image,
    scene: Scene,
    gates: Gates | None = None,
    cancel: Cancel | None = None,
) -> tuple[Lifted, ...]:
    """One per instance, in the frame scene.frame_id; NOT_ASKED for what is left when `cancel` is set.

    image: (H, W, 3) RGB, of the size of scene.depth and scene.camera. The plane that an object stands on is looked for
    around its mask; where scene.transform is given its target's z is up, so that a wall is not taken for it.
    """
    gates = gates or Gates()
    size = (scene.camera.height, scene.camera.width)
    refusal = _refusal(image, scene, size)
    if refusal is not None:
        return (refusal,) * len(instances)
    masks = [i.packed for i in instances]
    fitting = [m for m in masks if m.shape == size]
    # Masks may be a little too small, and their objects' edges are not to be taken for the plane.
    taken = cv2.dilate(union_mask(fitting, *size).view(np.uint8), np.ones((11, 11), np.uint8)).view(np.bool_)
    unasked = Lifted(Status3D.NOT_ASKED, "cancelled")
    stop = cancel or Cancel()
    return tuple(unasked if stop.is_set() else _attempt(mask, taken, image, scene, gates) for mask in masks)


def _attempt(packed: PackedMask, taken: Mask, image: Image, scene: Scene, gates: Gates) -> Lifted:
    """A fault with one instance takes 3D from no other."""
    try:
        return _lift_one(packed, taken, image, scene, gates)
    except Exception as error:
        log.exception("an instance could not be lifted")
        return Lifted(Status3D.ERROR, f"it failed: {type(error).__name__}: {one_line(error, 200)}")


def _refusal(image: Image, scene: Scene, size: tuple[int, int]) -> Lifted | None:
    for name, shape in (("depth", scene.depth.shape), ("colour", image.shape[:2])):
        if shape != size:
            what = f"the {name} image has {' x '.join(map(str, shape[::-1]))} pixels, the camera {size[1]} x {size[0]}"
            return Lifted(Status3D.UNALIGNED, what)
    move = scene.transform
    if move is not None and not (is_rotation(np.asarray(move.rotation)) and np.isfinite(move.translation).all()):
        return Lifted(Status3D.NO_TRANSFORM, f"what leads to {scene.frame_id[:100]!r} is no rigid transform")
    return None


def _lift_one(packed: PackedMask, taken: Mask, image: Image, scene: Scene, gates: Gates) -> Lifted:
    if packed.shape != taken.shape:
        return Lifted(Status3D.UNALIGNED, f"the mask is of an image of {packed.shape[1]} x {packed.shape[0]} pixels")
    if not packed.area:
        return Lifted(Status3D.TOO_FEW_POINTS, "the mask is empty")
    patch = _patch(packed, scene, gates)
    measured = patch.mask & np.isfinite(patch.depth)
    count = int(np.count_nonzero(measured))
    if packed.area >= gates.min_points and count < (1 - gates.max_holes) * packed.area:
        return Lifted(
            Status3D.TOO_MANY_HOLES,
            f"{1 - count / packed.area:.0%} of the mask's {packed.area} pixels have no depth, at most "
            f"{gates.max_holes:.0%} may",
        )
    if count < gates.min_points:
        return _too_few(count, gates)
    distance = float(np.median(patch.depth[measured]))
    if patch.noise > gates.max_noise * distance:
        what = f"the depth scatters by {patch.noise:.2g} m at {distance:.2g} m, so it shows no surface"
        return Lifted(Status3D.TOO_FEW_POINTS, what)
    # The z axis of a frame points up by REP 103, but for a camera's.
    levelled = scene.transform is not None and not scene.frame_id.endswith(OPTICAL)
    up = np.asarray(scene.transform.rotation, np.float64)[2] if scene.transform and levelled else None
    plane = _support(packed, patch, taken, up, scene, gates)
    kept = _object(patch, measured, plane, gates)
    if np.count_nonzero(kept) < gates.min_points:
        return _too_few(int(np.count_nonzero(kept)), gates)
    smooth = smoothed(patch.depth, kept, patch.mask & ~measured, patch.noise)
    surface = _points(smooth, patch.rays, np.isfinite(smooth), _SURFACE)
    move = scene.transform or Transform(np.eye(3), np.zeros(3))
    box = _box(surface, smooth, plane, up, scene, patch).moved(move)
    points = move.points(_points(patch.depth, patch.rays, kept))
    return Lifted(
        Status3D.OK,
        points=points.astype(np.float32),
        colours=image[patch.window][kept],
        centroid=vector(mean_of(points)),
        box=Box3D(Pose(vector(box.centre), quaternion_of(box.rotation)), vector(box.size)),
        visible=_visible(patch, kept, plane),
        hints=grasp_hints(move.points(surface), box, np.asarray(move.translation), patch.noise),
        support=plane and _moved(plane, move),
    )


def _too_few(count: int, gates: Gates) -> Lifted:
    return Lifted(
        Status3D.TOO_FEW_POINTS, f"{count} pixels of the mask measured the object, at least {gates.min_points} must"
    )


def _patch(packed: PackedMask, scene: Scene, gates: Gates) -> _Patch:
    window = _around(packed, _MARGIN)
    x1, y1, x2, y2 = packed.box
    top, left = window[0].start, window[1].start
    mask = np.zeros((window[0].stop - top, window[1].stop - left), np.bool_)
    mask[y1 - top : y2 - top, x1 - left : x2 - left] = packed.crop()
    depth, rays = _measured(scene, window, gates)
    core = core_of(mask, mask & np.isfinite(depth))
    return _Patch(window, depth, rays, mask, core, noise_of(depth, core))


def _around(packed: PackedMask, margin: int, step: int = 1) -> tuple[slice, slice]:
    """Rows and columns of the mask's box and `margin` pixels around it, as far as the image goes."""
    x1, y1, x2, y2 = packed.box
    height, width = packed.shape
    rows = slice(max(0, y1 - margin), min(height, y2 + margin), step)
    return rows, slice(max(0, x1 - margin), min(width, x2 + margin), step)


def _measured(scene: Scene, window: tuple[slice, slice], gates: Gates) -> tuple[Depth, NDArray[np.float32]]:
    """Depth of a window, NaN in holes, and its rays."""
    rays, depth = ray_window(scene.camera, window), scene.depth[window]
    with np.errstate(invalid="ignore"):
        usable = (depth > gates.near) & (depth < gates.far) & np.isfinite(rays[..., 0])
    return np.where(usable, depth, np.float32(np.nan)), rays


def _points(depth: Depth, rays: NDArray[np.float32], where: Mask, most: int | None = None) -> NDArray[np.float64]:
    """(N, 3) in the camera's frame; of more than `most` pixels some, evenly over them."""
    pixels = np.flatnonzero(where)
    if most is not None:
        pixels = pixels[:: max(1, len(pixels) // most)]
    z = depth.ravel()[pixels]
    points = np.empty((len(pixels), 3))
    np.multiply(rays.reshape(-1, 2)[pixels], z[:, None], out=points[:, :2])
    points[:, 2] = z
    return points


def _support(
    packed: PackedMask, patch: _Patch, taken: Mask, up: NDArray[np.float64] | None, scene: Scene, gates: Gates
) -> Plane | None:
    x1, y1, x2, y2 = packed.box
    ring = int(np.clip(max(x2 - x1, y2 - y1) // 2, *gates.ring))
    window = _around(packed, ring, 1 + max(x2 - x1, y2 - y1) // 40)
    depth, rays = _measured(scene, window, gates)
    around = _points(depth, rays, np.isfinite(depth) & ~taken[window])
    inner = _points(patch.depth, patch.rays, patch.core, 300)
    tolerance = max(0.004, 2.5 * patch.noise)
    gravity = None if up is None else vector(up)
    return support_plane(around, above=inner, up=gravity, tolerance=tolerance, max_tilt=gates.max_tilt)


def _object(patch: _Patch, measured: Mask, plane: Plane | None, gates: Gates) -> Mask:
    distance = float(np.median(patch.depth[patch.core]))
    gap = max(gates.gap, gates.relative_gap * distance, 6 * patch.noise)
    kept = without_flying(patch.depth, measured, max(gap / 2, 5 * patch.noise))
    if plane is not None:
        heights = _heights(plane, patch.depth, patch.rays)
        kept = without_table(patch.mask, kept, patch.core, heights, max(0.002, 2.5 * plane.residual))
    return in_depth_with(patch.depth, kept, kept & patch.core, gap)


def _box(
    surface: NDArray[np.float64],
    smooth: Depth,
    plane: Plane | None,
    up: NDArray[np.float64] | None,
    scene: Scene,
    patch: _Patch,
) -> Oriented:
    mask = dilated(patch.mask, 1)  # rounding to pixels contradicts nothing
    trim = 0.001 if patch.noise > NOISY else 0.0005
    seen = Seen(scene.camera, scene.depth, patch.window, mask, smooth, max(0.002, 0.3 * patch.noise))
    if plane is not None:
        floor = plane.offset if _stands(surface, plane) else None
        return upright_box(surface, np.array(plane.normal), floor, seen, trim)
    if up is not None:
        return upright_box(surface, up, None, seen, trim)
    return principal_box(surface)


def _stands(surface: NDArray[np.float64], plane: Plane) -> bool:
    """Whether what is seen reaches down to the plane, as far as the camera could see that.

    Of a ball the camera sees less of the foot the more it looks down, and from above of nothing: there it stands.
    """
    low, high = np.quantile(plane.heights(surface), (0.005, 0.98))
    middle = mean_of(surface)
    down = -float(middle @ np.array(plane.normal)) / float(np.linalg.norm(middle))
    return bool(down > np.sin(np.radians(60)) or low < max(0.01, 0.42 * high))


def _visible(patch: _Patch, kept: Mask, plane: Plane | None) -> float:
    """See Instance.msg. Where the outline has no depth, that of the object nearby counts."""
    mask, depth = patch.mask, patch.depth
    framed = np.pad(mask, 1).view(np.uint8)
    outline = mask & (cv2.erode(framed, np.ones((3, 3), np.uint8))[1:-1, 1:-1] == 0)
    far = np.float32(1e9)
    around = np.ones((7, 7), np.uint8)
    own = cv2.erode(np.where(kept, depth, far), around)
    other = np.where(mask | ~np.isfinite(depth), far, depth)
    if plane is not None:  # it runs nearer in front of the object, and hides nothing
        other[np.abs(_heights(plane, depth, patch.rays)) < max(0.006, 3 * plane.residual)] = far
    hidden = (cv2.erode(other, around) < own - max(0.012, 5 * patch.noise)) & (own < far)
    cut = np.ones_like(mask)
    cut[1:-1, 1:-1] = False  # a mask reaches its window's edge only where that is the image's
    return float(1 - np.count_nonzero(outline & (hidden | cut)) / np.count_nonzero(outline))


def _heights(plane: Plane, depth: Depth, rays: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w): metres above the plane, in the camera's frame."""
    x, y, z = (np.float32(v) for v in plane.normal)
    heights = depth * (rays[..., 0] * x + rays[..., 1] * y + z) - np.float32(plane.offset)
    return np.asarray(heights, np.float32)


def _moved(plane: Plane, move: Transform) -> Plane:
    normal = move.rotation @ np.array(plane.normal)
    return replace(plane, normal=vector(normal), offset=float(plane.offset + normal @ move.translation))
