"""Evaluates a profile on a split: `python -m training.evaluate --profile demo --data tabletop:test --json`.

The node's own pipeline answers, so what is measured is what runs. Definitions:
* parse_ok: share of answers that the parser accepts ("nothing matches" is an answer).
* box_acc, point_acc: over items with a target; an item's value is hits / max(objects predicted, objects true)
  under the best assignment; a box hits with IoU > 0.5, a point inside the mask of the object matched to it.
* giou, ciou: over items with a target, union of predicted masks against union of true masks; mean of the items'
  IoU, and sum of intersections over sum of unions (notation of the Seg-Zero paper).
* no_target_acc: share of items without a target that are answered by "nothing matches".
* sam_iou: the segmenter alone, from the true box and point, per object.
* *_ci: 95 % bootstrap interval over items.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile
from segzero_ros.types import Segmentation
from training.metrics import box_accuracy, intersection_union, interval, matched, ratio_interval
from training.tabletop.instructions import KINDS, Item, write
from training.tabletop.scene import SIZE
from training.tabletop.store import SPLITS, Scenes, render_split

ABSENT = 0.2
SCENES = 1000  # rendered per evaluation split


@dataclass(frozen=True)
class Question:
    scene: int
    item: Item


def questions(scenes: Scenes, count: int, seed: int, *, ood: bool) -> list[Question]:
    """`count` questions with every kind equally often, a fifth of each without a target; the same for the same seed."""
    rng = np.random.default_rng(seed)
    found: list[Question] = []
    for number in range(count):
        kind, absent = KINDS[number % len(KINDS)], (number // len(KINDS)) % round(1 / ABSENT) == 0
        while True:
            scene = int(rng.integers(len(scenes)))
            item = write(rng, scenes.things(scene), [kind], float(absent), ood=ood)
            if item is not None:
                found.append(Question(scene, item))
                break
    return found


def record(question: Question, scenes: Scenes, result: Segmentation) -> dict[str, Any]:
    """Everything about one item, ready for JSON."""
    ids, targets = scenes.ids(question.scene), question.item.targets
    true = np.isin(ids, [t.id for t in targets])
    masks = [i.mask for i in result.instances]
    predicted = np.logical_or.reduce(masks) if masks else np.zeros_like(true)
    boxes = [i.prompt_box or i.box for i in result.instances]
    pairs = matched(boxes, [t.box for t in targets])
    inside = 0
    for p, t, _ in pairs:
        points = result.instances[p].prompt_points
        x, y = (int(min(max(v, 0), SIZE - 1)) for v in points[0]) if points else (0, 0)
        inside += bool(points) and bool(ids[y, x] == targets[t].id)
    intersection, union = intersection_union(predicted, true)
    return {
        "scene": question.scene,
        "kind": question.item.kind,
        "instruction": question.item.text,
        "absent": question.item.absent,
        "status": result.status.value,
        "reasoning": result.reasoning,
        "answer": result.answer,
        "true_boxes": [list(t.box) for t in targets],
        "boxes": [list(map(float, b)) for b in boxes],
        "box_acc": box_accuracy(boxes, [t.box for t in targets]),
        "point_acc": inside / max(len(boxes), len(targets), 1),
        "intersection": intersection,
        "union": union,
    }


def figures(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The accuracies of some records, with intervals."""
    present = [r for r in records if not r["absent"]]
    absent = [r for r in records if r["absent"]]
    series = {
        "parse_ok": [float(r["status"] in ("OK", "NO_OBJECT")) for r in records],
        "box_acc": [r["box_acc"] for r in present],
        "point_acc": [r["point_acc"] for r in present],
        "giou": [r["intersection"] / r["union"] if r["union"] else 0.0 for r in present],
        "no_target_acc": [float(r["status"] == "NO_OBJECT") for r in absent],
    }
    out: dict[str, Any] = {"n": len(records)}
    for name, values in series.items():
        out[name] = round(float(np.mean(values)), 4) if values else None
        out[f"{name}_ci"] = interval(values) if values else None
    above, below = [r["intersection"] for r in present], [r["union"] for r in present]
    out["ciou"] = round(sum(above) / sum(below), 4) if sum(below) else None
    out["ciou_ci"] = ratio_interval(above, below) if sum(below) else None
    return out


def evaluate(
    pipeline: Pipeline, scenes: Scenes, asked: Sequence[Question], *, batch: int, latency_items: int = 20
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and per-item records. Batch size can change a text through padding, so it is recorded."""
    records: list[dict[str, Any]] = []
    for start in tqdm(range(0, len(asked), batch), desc="evaluate", unit="batch"):
        part = asked[start : start + batch]
        images = [np.ascontiguousarray(scenes.rgb(q.scene)) for q in part]
        results = pipeline.segment_batch(images, [q.item.text for q in part])
        records += [record(q, scenes, r) for q, r in zip(part, results, strict=True)]
    alone: list[float] = []
    for q in tqdm([q for q in asked if q.item.targets][:300], desc="segmenter alone", unit="item"):
        features = pipeline.segmenter.encode(np.ascontiguousarray(scenes.rgb(q.scene)))
        found = pipeline.segmenter.segment(
            features,
            [tuple(map(float, t.box)) for t in q.item.targets],  # type: ignore[misc]
            [((float(t.point[0]), float(t.point[1])),) for t in q.item.targets],
        )
        for t, (mask, _) in zip(q.item.targets, found, strict=True):
            intersection, union = intersection_union(mask, scenes.ids(q.scene) == t.id)
            alone.append(intersection / union)
    seconds = []
    for q in asked[:latency_items]:
        began = time.perf_counter()
        pipeline.segment(np.ascontiguousarray(scenes.rgb(q.scene)), q.item.text)
        seconds.append(time.perf_counter() - began)
    summary = figures(records)
    summary["sam_iou"] = round(float(np.mean(alone)), 4) if alone else None
    summary["sam_iou_ci"] = interval(alone) if alone else None
    summary["latency_p50_ms"] = round(1000 * float(np.median(seconds)), 1)
    summary["batch"] = batch
    summary["failed"] = sum(r["status"] not in ("OK", "NO_OBJECT", "PARSE_ERROR") for r in records)
    summary["simple_box_acc"] = figures(
        [r for r in records if r["kind"] in ("category", "color", "color_category", "function")]
    )["box_acc"]
    summary["kinds"] = {kind: figures([r for r in records if r["kind"] == kind]) for kind in KINDS}
    return summary, records


def page(
    pipeline: Pipeline, scenes: Scenes, asked: Sequence[Question], path: Path, columns: int = 4, rows: int = 4
) -> None:
    """A picture of the first answers."""
    from PIL import Image as PIL

    from segzero_ros.overlay import draw_overlay

    tiles = []
    for q in asked[: columns * rows]:
        image = np.ascontiguousarray(scenes.rgb(q.scene).repeat(2, 0).repeat(2, 1))
        tiles.append(PIL.fromarray(draw_overlay(image, pipeline.segment(image, q.item.text))))
    width, height = max(t.width for t in tiles), max(t.height for t in tiles)
    sheet = PIL.new("RGB", (columns * width, -(-len(tiles) // columns) * height), "white")
    for n, tile in enumerate(tiles):
        sheet.paste(tile, (n % columns * width, n // columns * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Evaluate a profile on a split of the simulated tabletop.")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--data", default="tabletop:test", help="tabletop:SPLIT, SPLIT in " + ", ".join(SPLITS))
    parser.add_argument("--root", type=Path, default=Path("build/tabletop"), help="where scenes are kept")
    parser.add_argument("--n", type=int, default=800, help="questions")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--reasoner", help="another checkpoint than the profile's")
    parser.add_argument("--segmenter", help="another checkpoint than the profile's")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--summary", type=Path, help="the same object into a file")
    parser.add_argument("--records", type=Path, help="per-item records, JSONL")
    parser.add_argument("--pictures", type=Path, help="a page of answers, PNG")
    arguments = parser.parse_args(argv)
    family, _, split = arguments.data.partition(":")
    if family != "tabletop" or split not in SPLITS:
        parser.error(f"--data {arguments.data}: expected tabletop:SPLIT with SPLIT in {', '.join(SPLITS)}")
    scenes = Scenes(render_split(arguments.root, split, arguments.scenes), limit=arguments.scenes)
    asked = questions(scenes, arguments.n, arguments.seed, ood=split == "test-ood")
    pipeline = Pipeline.load(
        load_profile(arguments.profile), reasoner=arguments.reasoner, segmenter=arguments.segmenter
    )
    summary, records = evaluate(pipeline, scenes, asked, batch=arguments.batch)
    summary = {"profile": arguments.profile, "data": arguments.data, "seed": arguments.seed, **summary}
    if arguments.records:
        arguments.records.parent.mkdir(parents=True, exist_ok=True)
        arguments.records.write_text("".join(json.dumps(r) + "\n" for r in records))
    if arguments.pictures:
        page(pipeline, scenes, asked, arguments.pictures)
    if arguments.summary:
        arguments.summary.parent.mkdir(parents=True, exist_ok=True)
        arguments.summary.write_text(json.dumps(summary, indent=1))
    if arguments.json:
        print(json.dumps(summary))
    else:
        for name in ("n", "parse_ok", "box_acc", "point_acc", "giou", "ciou", "no_target_acc", "sam_iou"):
            print(f"{name:14} {summary[name]} {summary.get(name + '_ci', '') or ''}")
        for kind, f in summary["kinds"].items():
            print(f"  {kind:14} box_acc {f['box_acc']} no_target {f['no_target_acc']}")
    return 0 if summary["failed"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
