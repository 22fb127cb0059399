"""From a mask to what a reasoner is to say about it: a box and points inside. NumPy and SciPy only.

Masks are bool (H, W); boxes (x_min, y_min, x_max, y_max) and points (x, y) are whole pixels of the same image, the far
edges inclusive, as in the published data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

Mask = NDArray[np.bool_]
Point = tuple[int, int]


def inclusive_box(mask: NDArray[Any]) -> tuple[int, int, int, int]:
    """The first and last pixels of the mask along both axes. Raises ValueError if it is empty.

    A map of counts is taken as in `published_points`.
    """
    inside = np.asarray(mask) == 1
    ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(ys):
        raise ValueError("the mask is empty")
    return int(xs[0]), int(ys[0]), int(xs[-1]), int(ys[-1])


def published_points(mask: NDArray[Any]) -> tuple[Point, Point]:
    """The two points of the published data, which are not quite the two largest inscribed circles.

    The deepest pixel of the mask, then the deepest of those that are farther from it than the median pixel; where there
    are none (masks of a pixel or two), the deepest within ten pixels of the centroid. Distance to the mask's edge,
    the image's border not being one. dvlab-research/Seg-Zero, prepare_dataset/training_data_prepare_toturial.ipynb.

    The notebook adds up the polygons of an annotation, and pixels under two of them (2) are then deep but not inside:
    given such a map of counts this function does the same; our readers give the union.
    """
    inside = np.asarray(mask) == 1
    ys, xs = np.nonzero(inside)
    if not len(ys):
        raise ValueError("the mask is empty")
    depth = distance_transform_edt(mask)
    first_y, first_x = np.unravel_index(int(depth.argmax()), depth.shape)
    apart = np.sqrt((ys - first_y) ** 2 + (xs - first_x) ** 2)
    far = apart > np.median(apart)
    if far.any():
        n = int(np.argmax(depth[ys[far], xs[far]]))
        second = int(xs[far][n]), int(ys[far][n])
    else:
        top, left = max(0, int(ys.mean()) - 10), max(0, int(xs.mean()) - 10)
        region = depth[top : int(ys.mean()) + 10, left : int(xs.mean()) + 10]
        y, x = np.unravel_index(int(region.argmax()), region.shape)
        second = _nearest_inside(np.asarray(mask), int(x) + left, int(y) + top)
    return (int(first_x), int(first_y)), second


def _nearest_inside(mask: NDArray[Any], x: int, y: int) -> Point:
    if mask[y, x]:
        return x, y
    ys, xs = np.nonzero(mask == 1)
    n = int(np.argmin((xs - x) ** 2 + (ys - y) ** 2))
    return int(xs[n]), int(ys[n])


def ignored_beside(ignore: Mask | None, masks: Sequence[Mask]) -> Mask | None:
    """The ignored pixels that are no object's, or None: a crowd's outline runs over those that stand before it.

    masks: of the objects; one of another shape is left to those who check it.
    """
    same = [] if ignore is None else [mask for mask in masks if mask.shape == ignore.shape]
    if ignore is None or not same:
        return ignore
    left = np.asarray(ignore & ~np.logical_or.reduce(same))
    return left if left.any() else None


def largest_circles(mask: Mask, count: int = 2) -> list[tuple[Point, float]]:
    """Centres and radii (pixels) of the largest inscribed circles, each free of those before; what the prompt says.

    A circle holds the pixels nearer to its centre than its radius, all of them in the mask. The image's border is an
    edge here: a circle lies inside the image. Fewer where no pixel is left. Raises ValueError if the mask is empty.
    """
    if not mask.any():
        raise ValueError("the mask is empty")
    free = np.pad(mask, 1)
    rows, columns = np.ogrid[: free.shape[0], : free.shape[1]]
    found: list[tuple[Point, float]] = []
    for _ in range(count):
        depth = distance_transform_edt(free)
        radius = float(depth.max())
        if radius == 0:
            break
        y, x = (int(v) for v in np.unravel_index(int(depth.argmax()), depth.shape))
        found.append(((x - 1, y - 1), radius))
        free &= (rows - y) ** 2 + (columns - x) ** 2 >= radius**2 - 1e-6
    return found


def two_points(mask: Mask, method: str = "published") -> tuple[Point, Point]:
    """method: "published", or "circles" for the centres of the two largest disjoint circles (the same one twice if
    there is but one)."""
    if method == "published":
        return published_points(mask)
    if method == "circles":
        centres = [centre for centre, _ in largest_circles(mask)]
        return centres[0], centres[-1]
    raise ValueError(f'points {method!r}: "published" or "circles"')
