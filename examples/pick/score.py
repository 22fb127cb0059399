"""What is counted: boxes, errors, causes of failure, intervals. NumPy and OpenCV alone."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

RIGHT_OBJECT = 0.5  # IoU with the target's mask: the right object was found
RIGHT_MASK = 0.8  # and its outline is good
RIGHT_PLACE = 0.025  # metres between the box's centre and the true one
CAUSES = ("reasoning", "mask", "3d", "grasp")


@dataclass(frozen=True)
class UprightBox:
    """center: (3,), metres, z up. size: along its own x, y and z. yaw: of its x axis in the world, radians."""

    center: NDArray[np.float64]
    size: NDArray[np.float64]
    yaw: float


def upright_box(points: NDArray[np.float64]) -> UprightBox:
    """The smallest upright box around points (N, 3)."""
    (x, y), (width, length), angle = cv2.minAreaRect(points[:, :2].astype(np.float32))
    low, high = points[:, 2].min(), points[:, 2].max()
    return UprightBox(
        np.array([x, y, (low + high) / 2]), np.array([width, length, high - low]), float(np.radians(angle))
    )


@dataclass(frozen=True)
class Attempt:
    """One pick from one mask. status_3d: of the lift to 3D. error: metres between the upright box's centre and the true
    one's. extent: mean relative error of its three sides. planned: a side fits between the fingers and the arm reaches
    it. lifted: the target was held above 0.1 m for a second."""

    status_3d: str
    message_3d: str = ""
    error: float | None = None
    extent: float | None = None
    planned: bool = False
    lifted: bool = False


@dataclass(frozen=True)
class Record:
    """One instruction over one scene. asked: node or process. iou: of the answer's mask and the target's. answer: the
    pick from the answer; bound: the same from the true mask, under the same depth."""

    asked: str
    size: str
    noise: str
    seed: int
    scene: int
    kind: str
    instruction: str
    target: str
    objects: int
    reachable: bool
    status: str
    message: str
    label: str
    iou: float
    answer: Attempt
    bound: Attempt
    seconds: float  # from the question to the answer

    @property
    def right(self) -> bool:
        return self.iou >= RIGHT_OBJECT

    @property
    def cause(self) -> str:
        """Why the answer's pick failed, the first of reasoning, mask, 3d, grasp that went wrong; empty: it did not."""
        if self.answer.lifted:
            return ""
        if not self.right:
            return "reasoning"
        if self.iou < RIGHT_MASK:
            return "mask"
        return cause_in_space(self.answer)


def cause_in_space(attempt: Attempt) -> str:
    if attempt.lifted:
        return ""
    if attempt.error is None or attempt.error > RIGHT_PLACE:
        return "3d"
    return "grasp"


def read_record(data: dict[str, Any]) -> Record:
    return Record(**{**data, "answer": Attempt(**data["answer"]), "bound": Attempt(**data["bound"])})


def box_errors(box: UprightBox, true: UprightBox) -> tuple[float, float]:
    """Distance of the centres in metres, and the mean relative error of the sides: longer, shorter, height."""

    def sides(b: UprightBox) -> NDArray[np.float64]:
        return np.array([*sorted(b.size[:2]), b.size[2]])

    error = float(np.linalg.norm(box.center - true.center))
    return error, float(np.mean(np.abs(sides(box) - sides(true)) / sides(true)))


def summarise(records: Sequence[Record], resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """The figures of docs/pick/results.json with 95 % bootstrap intervals over scenes under key + `_ci`.

    Only scenes whose target the arm reaches; the others are `n_unreachable`. The errors in millimetres are over scenes
    in which the right object was found, for the true mask too, so that both are over the same scenes. `ratio` is
    success_where_2d_right / bound_where_2d_right: numerator and denominator are drawn together, scene by scene.
    """
    reached = [r for r in records if r.reachable]
    n = len(reached)
    right = np.array([r.right for r in reached], float)
    success = np.array([r.answer.lifted for r in reached], float)
    bound = np.array([r.bound.lifted for r in reached], float)

    def column(which: Sequence[Attempt], what: str) -> NDArray[np.float64]:
        values = [getattr(a, what) if r.right else None for r, a in zip(reached, which, strict=True)]
        return np.array([np.nan if v is None else v for v in values], float)

    answers, bounds = [r.answer for r in reached], [r.bound for r in reached]
    error, true_error = column(answers, "error") * 1000, column(bounds, "error") * 1000
    extent = column(answers, "extent") * 100
    true_extent = column(bounds, "extent") * 100

    def figures(chosen: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """chosen: (rows, n) indices; each figure is (rows,), NaN where there is nothing to measure."""
        found, lifted, best = right[chosen], success[chosen], bound[chosen]
        count = np.where(found.sum(1) > 0, found.sum(1), np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # rows without a single number
            there, most = (lifted * found).sum(1) / count, (best * found).sum(1) / count
            return {
                "success": lifted.mean(1),
                "bound": best.mean(1),
                "2d_right": found.mean(1),
                "success_where_2d_right": there,
                "bound_where_2d_right": most,
                "ratio": there / np.where(most > 0, most, np.nan),
                "centroid_p50_mm": np.nanpercentile(error[chosen], 50, axis=1),
                "centroid_p90_mm": np.nanpercentile(error[chosen], 90, axis=1),
                "centroid_true_mask_p50_mm": np.nanpercentile(true_error[chosen], 50, axis=1),
                "centroid_true_mask_p90_mm": np.nanpercentile(true_error[chosen], 90, axis=1),
                "extent_p50_percent": np.nanpercentile(extent[chosen], 50, axis=1),
                "extent_true_mask_p50_percent": np.nanpercentile(true_extent[chosen], 50, axis=1),
            }

    result: dict[str, Any] = {"n": n, "n_unreachable": len(records) - n, "n_2d_right": int(right.sum())}
    if not n:
        return result
    whole = figures(np.arange(n)[None])
    rng = np.random.default_rng(seed)
    drawn = figures(rng.integers(0, n, (resamples, n)))
    for key, value in whole.items():
        result[key] = _rounded(value[0])
        usable = drawn[key][np.isfinite(drawn[key])]
        result[f"{key}_ci"] = [_rounded(v) for v in np.percentile(usable, [2.5, 97.5])] if len(usable) else None
    result["failures"] = {cause: sum(r.cause == cause for r in reached) for cause in CAUSES}
    result["bound_failures"] = {c: sum(cause_in_space(r.bound) == c for r in reached) for c in CAUSES[2:]}
    refused = Counter(r.answer.status_3d for r in reached if r.right and r.answer.status_3d != "OK")
    result["lift_refused"] = dict(refused)
    kinds = sorted({r.kind for r in reached})
    result["by_kind"] = {
        kind: {
            "n": len(those),
            "n_2d_right": sum(r.right for r in those),
            "success": sum(r.answer.lifted for r in those),
        }
        for kind in kinds
        if (those := [r for r in reached if r.kind == kind])
    }
    result["seconds_p50"] = _rounded(np.median([r.seconds for r in reached]))
    return result


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
