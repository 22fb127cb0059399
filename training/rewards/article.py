"""The five rewards in the article's words, where they differ from the published code; 5 at most.

Half a point per pair of tags instead of one for all of the form; IoU of at least 0.5, between continuous boxes; the
smallest L1 distance of the points. Where the article is silent the published code is followed.
"""

from __future__ import annotations

from training.rewards.seg_zero import BOX, POINTS, answer_format_strict, box_l1, box_of, json_object, true_numbers
from training.rewards.texts import SQUARE, each, scaled


@each
def tags(text: str, solution: str) -> float:
    """0, 0.5 or 1: half for one whole pair of thinking tags, half for one of answer tags behind it."""
    pairs = []
    for name in ("think", "answer"):
        start, end = text.find(f"<{name}>"), text.find(f"</{name}>")
        once = text.count(f"<{name}>") == 1 and text.count(f"</{name}>") == 1
        pairs.append((once and start < end, start, end))
    (thought, _, closed), (answered, opened, _) = pairs
    if thought and answered and opened < closed:
        answered = False
    return 0.5 * thought + 0.5 * answered


@each
def box_iou(text: str, solution: str) -> float:
    """1 if the IoU of the continuous boxes is at least 0.5."""
    try:
        a, b = box_of(json_object(text), True), true_numbers(BOX, solution)
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        if a[2] <= a[0] or a[3] <= a[1] or width <= 0 or height <= 0:
            return 0.0
        inner = width * height
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner
        return float(inner / union >= 0.5)
    except Exception:
        return 0.0


@each
def points(text: str, solution: str, square: int = SQUARE) -> float:
    """1 if both points are in the predicted box and the smallest L1 distance to a true point is below 100 of 840."""
    try:
        data = json_object(text)
        box, true = box_of(data, True), true_numbers(POINTS, solution)
        said = [(float(data[k][0]), float(data[k][1])) for k in ("points_1", "points_2")]
        if not all(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in said):
            return 0.0
        apart = min(abs(x - u) + abs(y - v) for x, y in said for u, v in (true[:2], true[2:]))
        return float(apart < scaled(100, square))
    except Exception:
        return 0.0


TERMS = {
    "tags": tags,
    "answer_format": answer_format_strict,
    "box_iou": box_iou,
    "box_l1": box_l1,
    "points": points,
}
