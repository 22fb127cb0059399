"""How well a segmenter follows what a person points at: IoU with the true masks of rendered tabletop scenes.

    python -m training.data.tabletop.store build/tabletop --split test --scenes 200
    python tools/pointing_quality.py build/tabletop/test

A click is on the pixel of the true mask that is deepest inside it. A wrong click is on another object; its correction
is a click on the right one and a point that is not on it, either where the wrong click was or elsewhere on what it hit.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from segzero_ros.core.contract import Point, Prompt, Segmentation
from segzero_ros.core.geometry import mask_iou
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile
from training.data.tabletop.store import MIN_AREA, Scenes


def deepest(mask: NDArray[np.bool_]) -> Point:
    """Centre of the largest inscribed circle."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) + 0.5, float(y) + 0.5


def elsewhere(mask: NDArray[np.bool_], point: Point) -> Point:
    """Of the pixels that are no edge the one that is farthest from the point."""
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    ys, xs = np.nonzero(inner if inner.any() else mask)
    far = int(np.argmax((xs + 0.5 - point[0]) ** 2 + (ys + 0.5 - point[1]) ** 2))
    return float(xs[far]) + 0.5, float(ys[far]) + 0.5


def measure(pipeline: Any, scenes: Scenes) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}

    def note(form: str, result: Segmentation, truths: list[NDArray[np.bool_]]) -> None:
        assert len(result.instances) == len(truths), result.message
        ious = [mask_iou(i.mask, t) for i, t in zip(result.instances, truths, strict=True)]
        found.setdefault(form, []).extend(ious)

    for index in tqdm(range(len(scenes)), unit="scene", mininterval=5):
        image, ids = np.array(scenes.rgb(index)), np.array(scenes.ids(index))
        things = [t for t in scenes.things(index) if t.area >= MIN_AREA]
        if not things:
            continue
        truths = [ids == t.id for t in things]
        clicks = [deepest(t) for t in truths]
        boxes = [tuple(map(float, t.box)) for t in things]
        note("click", pipeline.segment_prompts(image, [Prompt(points=(c,)) for c in clicks]), truths)
        note("box", pipeline.segment_prompts(image, [Prompt(b) for b in boxes]), truths)  # type: ignore[arg-type]
        both = [Prompt(b, (c,)) for b, c in zip(boxes, clicks, strict=True)]  # type: ignore[arg-type]
        note("box and click", pipeline.segment_prompts(image, both), truths)
        if len(things) < 2:
            continue
        wrong = clicks[1:] + clicks[:1]  # on the next object
        first = pipeline.segment_prompts(image, [Prompt(points=(c,)) for c in wrong])
        note("wrong click", first, truths)
        hit = truths[1:] + truths[:1]
        kinds = {
            "taken back": wrong,
            "elsewhere on the wrong object": [elsewhere(m, c) for m, c in zip(hit, wrong, strict=True)],
        }
        for kind, negatives in kinds.items():
            corrections = [
                Prompt(points=(c, n), positive=(True, False), corrects=("", i + 1))
                for i, (c, n) in enumerate(zip(clicks, negatives, strict=True))
            ]
            note(f"wrong click, {kind}", pipeline.segment_prompts(image, corrections, earlier=first), truths)
        more = [Prompt(points=(c,), corrects=("", i + 1)) for i, c in enumerate(clicks)]
        note("wrong click, a right one more", pipeline.segment_prompts(image, more, earlier=first), truths)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--segmenter")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--feed-masks", action="store_true", help="feed earlier masks back whatever was trained")
    arguments = parser.parse_args()
    profile = load_profile(arguments.profile)
    pipeline = Pipeline.load(profile, segmenter=arguments.segmenter, words=False, trial=False)
    if arguments.feed_masks:
        pipeline.segmenter.learned_masks = True  # type: ignore[attr-defined]
    for form, ious in measure(pipeline, Scenes(arguments.scenes, arguments.limit)).items():
        values = np.array(ious)
        line = {"n": len(ious), "mean_iou": values.mean().round(3), "above_half": (values >= 0.5).mean().round(3)}
        print(json.dumps({"form": form, **{k: float(v) for k, v in line.items()}}))


if __name__ == "__main__":
    main()
