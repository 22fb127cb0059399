"""Squares and source pixels, boxes, masks, COCO run lengths, label images. NumPy and Pillow only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL

from segzero_ros.core.contract import Box, Candidate, Image, Mask, PackedMask, Point
from segzero_ros.core.profile import Profile


def square_image(image: Image, side: int) -> Image:
    """(H, W, 3) to (side, side, 3), bilinear as the published inference; the aspect ratio is not kept."""
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(PIL.fromarray(image).resize((side, side), PIL.Resampling.BILINEAR))


def to_source(candidate: Candidate, profile: Profile, height: int, width: int) -> Candidate:
    """A candidate in the profile's coordinates, mapped to source pixels with the profile's rounding."""
    # StAR's 8B and 32B: the largest coordinate is the last pixel, not the edge behind it.
    last = 1 if profile.rounding == "last-pixel" else 0
    fx, fy = (width - last) / profile.extent, (height - last) / profile.extent

    def move(v: float, f: float) -> float:
        # Published single-object code drops decimals first (infer.py); multi-object code rounds half up.
        if profile.rounding == "half-up":
            return float(int(v * f + 0.5))
        return float(round((v if last else int(v)) * f))

    box = candidate.box
    return Candidate(
        box and (move(box[0], fx), move(box[1], fy), move(box[2], fx), move(box[3], fy)),
        tuple((move(x, fx), move(y, fy)) for x, y in candidate.points),
        candidate.label,
    )


def boxes_iou_matrix(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """IoU of every box of a (N, 4) with every box of b (M, 4): (N, M). Empty boxes give 0."""
    a, b = np.asarray(a, np.float64).reshape(-1, 4), np.asarray(b, np.float64).reshape(-1, 4)
    size = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    inner = size.clip(0).prod(2)
    areas = [(x[:, 2:] - x[:, :2]).clip(0).prod(1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - inner
    return np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)


def box_iou(a: Box, b: Box) -> float:
    return float(boxes_iou_matrix(np.array([a]), np.array([b]))[0, 0])


def mask_iou(a: Mask, b: Mask) -> float:
    """1 for two empty masks."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def mask_box(mask: Mask) -> Box | None:
    """The tight box, exclusive at its far edges; None for an empty mask."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(ys):
        return None
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)


def pack(mask: Mask) -> PackedMask:
    """The bits of its tight box."""
    height, width = mask.shape
    x1, y1, x2, y2 = (int(v) for v in mask_box(mask) or (0, 0, 0, 0))
    crop = mask[y1:y2, x1:x2]
    return PackedMask((height, width), (x1, y1, x2, y2), int(np.count_nonzero(crop)), np.packbits(crop).tobytes())


def packed_iou(a: PackedMask, b: PackedMask) -> float:
    """IoU of two masks of one shape, without the whole of either; 0 for two empty ones."""
    x1, y1 = (max(p, q) for p, q in zip(a.box[:2], b.box[:2], strict=True))
    x2, y2 = (min(p, q) for p, q in zip(a.box[2:], b.box[2:], strict=True))
    if x1 >= x2 or y1 >= y2:
        return 0.0
    inner = (m.crop()[y1 - m.box[1] : y2 - m.box[1], x1 - m.box[0] : x2 - m.box[0]] for m in (a, b))
    both = int(np.count_nonzero(next(inner) & next(inner)))
    return both / (a.area + b.area - both)


def union_mask(masks: Iterable[PackedMask], height: int, width: int) -> Mask:
    """Where any of them is."""
    union = np.zeros((height, width), np.bool_)
    for mask in masks:
        union[mask.window] |= mask.crop()
    return union


def label_image(
    masks: Sequence[PackedMask], scores: Sequence[float], height: int, width: int
) -> NDArray[np.unsignedinteger]:
    """0 = background, i = instance i (from 1). Where masks overlap, the higher score wins, ties the earlier one.

    uint8 up to 254 instances, else uint16: 255, and 65535 in uint16, mean unlabelled to others. Instances from the
    65,535th on are left out.
    """
    labels = np.zeros((height, width), np.uint8 if len(masks) <= 254 else np.uint16)
    for i in sorted(range(min(len(masks), 65534)), key=lambda i: (scores[i], -i)):
        labels[masks[i].window][masks[i].crop()] = i + 1
    return labels


def rle_encode(mask: Mask) -> list[int]:
    """COCO's uncompressed counts: lengths of runs in column-major order, the first of background (may be 0)."""
    flat = np.asarray(mask, np.bool_).ravel(order="F")
    if not flat.size:
        return []
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    return [0, *counts] if flat[0] else counts


def rle_decode(counts: Sequence[int], height: int, width: int) -> Mask:
    """The mask of `rle_encode`. Raises ValueError unless the counts fill it."""
    runs = np.asarray(counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"run lengths sum to {int(runs.sum())}, not {height} x {width}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def clip_point(point: Point, height: int, width: int) -> Point:
    return min(max(point[0], 0.0), width - 1.0), min(max(point[1], 0.0), height - 1.0)
