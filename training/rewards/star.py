"""StAR's rewards, with SAM in the loop: VisionReasoner's and tiers of the masks' IoU.

ysj9909/StAR (Apache-2.0). The paper, and verl/utils/reward_score/z_star.py: tiers 2, 3, 4 above IoU .5, .7, .8; 11 at
most. What its scripts train with, verl/workers/sam_worker.py: tiers 1 to 5 above .3, .5, .7, .8, .9, a point for the
right number of objects, and labels asked for in the format; 13 at most. Their second stage: twice those tiers in place
of boxes, points and number; 14 at most. Here a missing label costs part of the format; in their evaluation it makes the
whole answer unreadable, which is no reward but a parser: `_read_star` in segzero_ros/core/published.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from segzero_ros.core.contract import Segmenter
from training.rewards import vision_reasoner
from training.rewards.texts import SQUARE, each, well_tagged
from training.rewards.vision_reasoner import (
    MAX_OBJECTS,
    boxes_and_points,
    items_of,
    lists_in_form,
    mean_of_items,
    read_hits,
)

PAPER_TIERS = ((0.5, 2.0), (0.7, 3.0), (0.8, 4.0))
CODE_TIERS = ((0.3, 1.0), (0.5, 2.0), (0.7, 3.0), (0.8, 4.0), (0.9, 5.0))


class OneLook:
    """A segmenter that encodes an image once for all answers over it that follow each other."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._image: Any = None
        self._features: Any = None

    def encode(self, image: Any) -> Any:
        if self._image is None or not np.array_equal(self._image, image):
            self._image, self._features = image, self.segmenter.encode(image)
        return self._features

    def segment(self, features: Any, boxes: Any, points: Any) -> Any:
        return self.segmenter.segment(features, boxes, points)


def predicted_masks(
    segmenter: Segmenter, image: Any, boxes: NDArray[np.float64], points: NDArray[np.float64], square: int
) -> NDArray[np.bool_]:
    """(M, S, S): one mask per box (M, 4) with its point (M, 2). image: (S, S, 3); coordinates up to `square`."""
    scale = len(image) / square  # 1 but for a model that writes thousandths
    features = segmenter.encode(np.ascontiguousarray(image))
    found = segmenter.segment(
        features,
        [(x1 * scale, y1 * scale, x2 * scale, y2 * scale) for x1, y1, x2, y2 in boxes.tolist()],
        [((x * scale, y * scale),) for x, y in points.tolist()],
    )
    return np.stack([mask for mask, _ in found])


def mask_ious(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(M, N) from masks (M, H, W) and (N, H, W); a part in a million added to the union, as published."""
    x, y = (m.reshape(len(m), -1).astype(np.float64) for m in (a, b))
    inner = x @ y.T
    ious: NDArray[np.float64] = inner / (x.sum(1)[:, None] + y.sum(1)[None] - inner + 1e-6)
    return ious


def _tiers(ious: NDArray[np.float64], tiers: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    won = np.zeros_like(ious)
    for above, value in tiers:
        won[ious > above] = value
    return won


def _readable(values: NDArray[Any], size: int) -> NDArray[np.bool_]:
    """(M,): of which rows SAM makes a mask: those of `size` numbers that float32 holds. Text in one row of an array has
    made text of all; `null`, and a whole number too long for an array's, have not."""
    if values.shape[1:] != (size,) or values.dtype.kind not in "biufO":
        return np.zeros(len(values), bool)
    largest = float(np.finfo(np.float32).max)

    def held(value: Any) -> bool:
        return isinstance(value, (bool, int, float)) and abs(value) <= largest

    return np.array([all(map(held, row)) for row in values.tolist()], bool)


def _mask_tiers(
    segmenter: Segmenter,
    image: Any,
    mask: Any,
    boxes: NDArray[Any],
    points: NDArray[Any],
    square: int,
    tiers: Sequence[tuple[float, float]],
) -> NDArray[np.float64]:
    """(M, N); where SAM cannot read an object's numbers its mask is empty, as published, and the others count."""
    true = np.asarray(mask, bool)[:MAX_OBJECTS]
    won = np.zeros((len(boxes), len(true)))
    rows = _readable(boxes, 4) & _readable(points, 2)
    if rows.any():
        said = boxes[rows].astype(float), points[rows].astype(float)
        won[rows] = _tiers(mask_ious(predicted_masks(segmenter, image, *said, square), true), tiers)
    return won


def _accuracy(
    tiers: Sequence[tuple[float, float]], count: float
) -> Callable[[str, str, Any, Any, Segmenter | None, int], float]:
    top = 3.0 + tiers[-1][1]

    def one(text: str, solution: str, mask: Any, image: Any, segmenter: Segmenter | None, square: int) -> float:
        try:
            boxes, points, wanted, total = read_hits(text, solution, square)
        except Exception:  # whatever the text made it raise, as published
            return 0.0
        cost = 3.0 - total
        if mask is not None and image is not None and segmenter is not None and len(boxes):
            # Outside the try: a segmenter that fails is no fault of the text's.
            total = _mask_tiers(segmenter, image, mask, boxes, points, square, tiers) + total
            cost = top - total
        rows, columns = linear_sum_assignment(cost)
        won = float(total[rows, columns].sum() / max(len(boxes), wanted))
        return won + (count if len(boxes) == wanted else 0.0)

    return one


def _masks_alone(text: str, solution: str, mask: Any, image: Any, segmenter: Segmenter | None, square: int) -> float:
    try:
        boxes, points = boxes_and_points(items_of(text))
    except Exception:  # whatever the text made it raise, as published
        return 0.0
    if mask is None or image is None or segmenter is None or not len(boxes) or not len(mask):
        return 0.0
    won = _mask_tiers(segmenter, image, mask, boxes, points, square, CODE_TIERS)
    rows, columns = linear_sum_assignment(-won)
    return float(2 * won[rows, columns].sum() / max(won.shape))


def _term(one: Callable[..., float], doc: str) -> Callable[..., list[float]]:

    def accuracy(
        texts: Sequence[str],
        solutions: Sequence[str],
        *,
        masks: Sequence[Any] | None = None,
        images: Sequence[Any] | None = None,
        segmenter: Segmenter | None = None,
        square: int = SQUARE,
    ) -> list[float]:
        none: list[Any] = [None] * len(texts)
        look: Any = None if segmenter is None else OneLook(segmenter)
        rows = zip(texts, solutions, masks or none, images or none, strict=True)
        return [one(text, solution, mask, image, look, square) for text, solution, mask, image in rows]

    accuracy.__doc__ = doc
    return accuracy


accuracy_paper = _term(
    _accuracy(PAPER_TIERS, 0.0), "0 to 7: box, L1, point and mask tiers of the best assignment (z_star.py)."
)
accuracy_code = _term(
    _accuracy(CODE_TIERS, 1.0), "0 to 9: the same with finer tiers, and 1 for the right number (sam_worker.py)."
)
accuracy_masks = _term(_masks_alone, "0 to 10: twice the finer tiers of the best assignment (sam_worker.py, stage 2).")


@each
def form_with_label(text: str, solution: str) -> float:
    """0 to 3: 1 for the tags; per object 2/3 each for the box, the point and a label that is not blank, averaged."""
    return float(well_tagged(text)) + mean_of_items(text, _parts_in_form)


def _parts_in_form(item: Any) -> float:
    labelled = "label" in item and isinstance(item["label"], str) and item["label"].strip() != ""
    return (lists_in_form(item) + labelled) * (2.0 / 3.0)


PAPER = {"format": vision_reasoner.form, "accuracy": accuracy_paper, "non_repeat": vision_reasoner.non_repeat}
CODE = {"format": form_with_label, "accuracy": accuracy_code, "non_repeat": vision_reasoner.non_repeat}
STAGE_2 = {**CODE, "accuracy": accuracy_masks}
