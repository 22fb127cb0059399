"""Evaluates a profile through the node's own pipeline, so what is measured is what runs.

    segzero-train evaluate --profile demo --data tabletop:test --records out/test.jsonl --pictures out/test.png
    segzero-train evaluate --profile seg-zero --data reasonseg:PATH --split val --records out/val.jsonl
    segzero-train evaluate ... --shard 0/8          # one process per GPU (shard I takes GPU I), all eight, then
    segzero-train evaluate --from-records out/val.*-of-8.jsonl --records out/val.jsonl
    segzero-train evaluate ... --samples 32 --temperature 1 --top-p 0.9  # voting (training/measures/voting.py)
    segzero-train evaluate ... --parser published   # answers read as the published scripts do, which refuse more

A call with --records that was killed is continued by the same call. Shards take whole batches in turn, so that a text
does not depend on their number; every figure is made from the records alone. Definitions:
* parse_ok: share of answers that the parser accepts ("nothing matches" is an answer).
* box_acc, point_acc: over items with a target; an item's value is hits / max(objects predicted, objects true)
  under the best assignment; a box hits with IoU > 0.5, a point inside the mask of the object matched to it.
* giou, ciou: over items with a target, union of predicted masks against union of true masks; mean of the items'
  IoU, and sum of intersections over sum of unions (notation of the Seg-Zero paper).
* no_target_acc: share of items without a target that are answered by "nothing matches" (N-acc of gRefCOCO).
* t_acc: share of items with a target that are answered by an object (T-acc; an unreadable answer is none).
* n_acc_published: N-acc as VisionReasoner counts it, where an unreadable answer passes for "nothing matches".
* box_acc_lenient: box accuracy as VisionReasoner publishes it, over all items (training/measures/metrics.py).
* protocols: giou and ciou over all items by the two published protocols (training/measures/protocols.py).
* counting, detection: of the objects in answers (training/measures/metrics.py). counting_published: a failure is 1.
* sam_iou: the segmenter alone, from the true box and point, per object.
* sampled_*, best_of_n_*: with --samples, over single samples, and for the best sample of each item.
* left_out: rows that are right and no item, such as a category that is but a crowd in an image; in no figure.
* failed: items at which a model failed; wrong in all figures.
* unread: items whose image or truth could not be read, with the reason in their record. No model was asked, so figures
  are over the items read; if_unread_wrong has each as it is if the others were answered wrongly, the least that it can
  be. There an item whose truth is not known counts in every mean, and leaves ciou without a value.
* *_ci: 95 % bootstrap interval over items.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from segzero_ros.core.contract import (
    Box,
    Image,
    Mask,
    Point,
    Sampling,
    Segmentation,
    SegzeroError,
    Status,
    ThoughtBudget,
)
from segzero_ros.core.geometry import mask_box, rle_encode, union_mask
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import ProfileError, load_profile
from training.data.samples import LeftOut, Problem, Sample, Source
from training.data.sources import SOURCES, Reading, check_images, open_source
from training.data.tabletop import wordings
from training.data.tabletop.instructions import KINDS, Item
from training.data.tabletop.instructions import write as instruct
from training.data.tabletop.store import SPLITS, Scenes, render_split
from training.measures import protocols
from training.measures.metrics import (
    box_accuracy,
    counting,
    detection_ap,
    intersection_union,
    interval,
    lenient_box_hit,
    matched,
    ratio_interval,
)
from training.measures.records import Record, RecordFile, RecordsError, load, shard_path, write
from training.measures.voting import Ballot, vote

ABSENT = 0.2
SCENES = 1000  # rendered per evaluation split
QUESTIONS = 800
ANSWERED = ("OK", "NO_OBJECT")
READABLE = (*ANSWERED, "PARSE_ERROR")
SIMPLE = ("category", "color", "color_category", "function")


@dataclass(frozen=True)
class Question:
    scene: int
    item: Item


@dataclass(frozen=True)
class Target:
    """One true object. box: XYXY, exclusive far edges; point: inside it; mask: (H, W), None where it is not known."""

    box: Box
    point: Point | None
    mask: Mask | None = field(repr=False)


@dataclass(frozen=True)
class Asked:
    """An instruction over an image with its truth. ignore: (H, W), pixels that LISA's protocol does not count."""

    text: str
    image: Image = field(repr=False)
    targets: tuple[Target, ...]
    ignore: Mask | None = field(default=None, repr=False)

    def truth(self) -> Mask | None:
        """All targets, (H, W); None where masks are not known."""
        masks = [t.mask for t in self.targets if t.mask is not None]
        if len(masks) < len(self.targets):
            return None
        return np.logical_or.reduce([np.zeros(self.image.shape[:2], bool), *masks])


@dataclass(frozen=True)
class Case:
    """An item before its data is read. Whatever `read` raises makes it an unread item, no more. about: for JSON."""

    id: str
    kind: str
    read: Callable[[], Asked] = field(repr=False)
    about: dict[str, Any] = field(default_factory=dict)


class Unseen(ValueError):
    """An image that cannot be read, of an item whose truth is known. asked: with a black image in its place."""

    def __init__(self, why: str, asked: Asked) -> None:
        super().__init__(why)
        self.asked = asked


def questions(
    scenes: Scenes, count: int, seed: int, *, ood: bool, words: wordings.Wordings | None = None
) -> list[Question]:
    """`count` questions with every kind equally often, a fifth of each without a target; the same for the same seed.

    words: the same questions are asked in these.
    """
    rng = np.random.default_rng(seed)
    found: list[Question] = []
    for number in range(count):
        kind, absent = KINDS[number % len(KINDS)], (number // len(KINDS)) % round(1 / ABSENT) == 0
        while True:
            scene = int(rng.integers(len(scenes)))
            item = instruct(rng, scenes.things(scene), [kind], float(absent), ood=ood)
            if item is not None:
                found.append(Question(scene, item))
                break
    if words is not None:  # each by a generator of its own, so that what is asked is not drawn otherwise
        seeds = (np.random.default_rng([seed, n]) for n in range(count))
        found = [replace(q, item=wordings.reword(r, q.item, words)) for r, q in zip(seeds, found, strict=True)]
    return found


def tabletop_cases(scenes: Scenes, asked: Sequence[Question], name: str) -> list[Case]:
    """name: what the ids start with, such as split and seed."""

    def read(q: Question) -> Asked:
        ids = scenes.ids(q.scene)
        targets = tuple(
            Target(t.box, (float(t.point[0]), float(t.point[1])), np.asarray(ids == t.id)) for t in q.item.targets
        )
        return Asked(q.item.text, np.ascontiguousarray(scenes.rgb(q.scene)), targets)

    return [
        Case(f"{name}-{n:05d}", q.item.kind, lambda q=q: read(q), {"scene": q.scene})  # type: ignore[misc]
        for n, q in enumerate(asked)
    ]


def sample_cases(source: Source | Iterable[Sample | Problem], kind: str) -> list[Case]:
    """Cases of a source, read lazily, or of any samples.

    What a source knows to be bad becomes a case that cannot be read. Raises ValueError for an id that is there twice.
    """

    def fails(problem: Problem) -> Callable[[], Asked]:
        def read() -> Asked:
            raise ValueError(problem.reason)

        return read

    if isinstance(source, Source):
        bad = [p for p in source.problems if p.kind == "bad" and p.file == source.file]  # not those of a file beside
        cases = [Case(i.id, kind, lambda i=i: asked_of(i.read())) for i in source.items]  # type: ignore[misc]
        cases += [Case(f"{p.id} (problem {n})", kind, fails(p)) for n, p in enumerate(bad)]  # last: --n takes items
    else:
        cases = [
            Case(s.id, kind, fails(s) if isinstance(s, Problem) else lambda s=s: asked_of(s))  # type: ignore[misc]
            for s in source
        ]
    twice = [i for i, n in Counter(c.id for c in cases).items() if n > 1]
    if twice:
        raise ValueError(f"{len(twice)} ids are there more than once, such as {twice[0]!r}")
    return cases


def asked_of(sample: Sample) -> Asked:
    """A sample's truth: its masks, or its annotated boxes where it has none. Raises ValueError for what cannot be, and
    Unseen where that is the image alone."""
    why: Exception | None = None
    try:
        image = sample.pixels()
    except Exception as error:
        drawn = [m for m in (*sample.masks, sample.ignore) if m is not None]
        image, why = np.zeros((*(drawn[0].shape if drawn else (1, 1)), 3), np.uint8), error
    if sample.ignore is not None and sample.ignore.shape != image.shape[:2]:
        raise ValueError(f"the ignored pixels are {sample.ignore.shape} over an image {image.shape[:2]}")
    if sample.masks:
        targets = []
        for n, mask in enumerate(sample.masks):
            box = mask_box(mask)
            if mask.shape != image.shape[:2] or box is None:
                raise ValueError(f"mask {n} is {mask.shape} over an image {image.shape[:2]}, or empty")
            targets.append(Target(box, None, mask))
    else:
        known = sample.targets or ()
        targets = [Target(_exclusive(t.box), _float(t.points[0]) if t.points else None, None) for t in known]
    asked = Asked(sample.text, image, tuple(targets), sample.ignore)
    if why is not None:
        raise Unseen(_reason(why), asked) from why
    return asked


def _reason(error: Exception) -> str:
    """As `prepare` writes it."""
    return str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"


def _exclusive(box: Sequence[int]) -> Box:
    return float(box[0]), float(box[1]), box[2] + 1.0, box[3] + 1.0


def _float(point: Sequence[int]) -> Point:
    return float(point[0]), float(point[1])


def record(index: int, case: Case, asked: Asked, result: Segmentation) -> Record:
    """Everything about one item, ready for JSON."""
    height, width = asked.image.shape[:2]
    true, ignore = asked.truth(), asked.ignore
    predicted = union_mask((i.packed for i in result.instances), height, width)
    boxes = [i.prompt_box or i.box for i in result.instances]
    true_boxes = [t.box for t in asked.targets]
    inside = 0
    for p, t, _ in matched(boxes, true_boxes):
        points = result.instances[p].prompt_points
        inside += bool(points) and _hit(points[0], asked.targets[t], height, width)
    answered, failed = result.status.value in ANSWERED, result.status.value not in READABLE
    intersection, union = intersection_union(predicted, true) if true is not None else (None, None)
    scored = protocols.score(predicted if answered else None, true, ignore, failed=failed) if true is not None else None
    # As published: ignored pixels are target, and what failed has no boxes.
    painted = true if true is None or ignore is None else true | ignore
    lenient = None if painted is None else float(lenient_box_hit(boxes, painted) and not failed)
    return {
        "index": index,
        "id": case.id,
        **case.about,
        "kind": case.kind,
        "instruction": asked.text,
        "size": [height, width],
        "absent": not asked.targets,
        "status": result.status.value,
        "message": result.message,
        "text": result.text,
        "reasoning": result.reasoning,
        "answer": result.answer,
        "true_boxes": [list(b) for b in true_boxes],
        "boxes": [list(map(float, b)) for b in boxes],
        "points": [[list(p) for p in i.prompt_points] for i in result.instances],
        "labels": [i.label for i in result.instances],
        "scores": [i.score for i in result.instances],
        "masks": [rle_encode(i.mask) for i in result.instances],
        "ignored": int(np.count_nonzero(ignore)) if ignore is not None else 0,
        "tokens": result.timing.completion_tokens,
        "box_acc": box_accuracy(boxes, true_boxes),
        "point_acc": inside / max(len(boxes), len(asked.targets), 1),
        "box_acc_lenient": lenient,
        "intersection": intersection,
        "union": union,
        "protocols": scored,
    }


def unread(index: int, case: Case, error: Exception) -> Record:
    """An item that no model was asked: what is known of it, its answer as wrong as one can be."""
    found = {"index": index, "id": case.id, "kind": case.kind, **case.about}
    if isinstance(error, LeftOut):
        return found | {"status": "LEFT_OUT", "message": str(error)}
    if isinstance(error, Unseen):
        height, width = error.asked.image.shape[:2]
        found = record(
            index, case, error.asked, Segmentation(Status.BACKEND_ERROR, "", error.asked.text, height, width)
        )
    return found | {"status": "UNREAD", "message": _reason(error)}


def _hit(point: Point, target: Target, height: int, width: int) -> bool:
    """Inside the mask, or inside the box where there is none."""
    x, y = (int(min(max(v, 0), side - 1)) for v, side in zip(point, (width, height), strict=True))
    if target.mask is not None:
        return bool(target.mask[y, x])
    x1, y1, x2, y2 = target.box
    return x1 <= point[0] < x2 and y1 <= point[1] < y2


@dataclass(frozen=True)
class Voting:
    """samples: per item, `batch` at a time. Every item draws from seeds of its own."""

    samples: int
    temperature: float
    top_p: float
    seed: int


def answer_by_vote(
    pipeline: Pipeline, index: int, asked: Asked, voting: Voting, batch: int
) -> tuple[Segmentation, Any]:
    """The answer that the samples agree on, and what is recorded of them. Samples that can't be read have no vote."""
    results: list[Segmentation] = []
    for n, start in enumerate(range(0, voting.samples, batch)):
        count = min(batch, voting.samples - start)
        seed = int(np.random.SeedSequence([voting.seed, index, n]).generate_state(1)[0])
        sampling = Sampling(voting.temperature, voting.top_p, seed)
        results += pipeline.segment_batch([asked.image] * count, [asked.text] * count, sampling=sampling)
    voters = [r for r in results if r.status.value in ANSWERED]
    ballots = [Ballot(tuple(i.packed for i in r.instances), tuple(i.score for i in r.instances)) for r in voters]
    chosen = vote(ballots)
    if chosen is None:
        return results[0], _samples(results, asked, [])
    # The words are those of the first sample that the outcome rests on.
    words = voters[chosen[0].ballot] if chosen else next(r for r in voters if r.status is Status.NO_OBJECT)
    instances = tuple(replace(voters[c.ballot].instances[c.mask], index=n) for n, c in enumerate(chosen, 1))
    final = replace(words, status=Status.OK if chosen else Status.NO_OBJECT, instances=instances)
    return final, _samples(results, asked, [c.votes for c in chosen])


def _samples(results: Sequence[Segmentation], asked: Asked, votes: list[int]) -> dict[str, Any]:
    true, boxes = asked.truth(), [t.box for t in asked.targets]
    found = []
    for r in results:
        union = union_mask((i.packed for i in r.instances), *asked.image.shape[:2])
        found.append(
            {
                "status": r.status.value,
                "text": r.text,
                "box_acc": box_accuracy([i.prompt_box or i.box for i in r.instances], boxes),
                "iou": protocols.lisa(union if r.status.value in ANSWERED else None, true).iou
                if true is not None
                else None,
            }
        )
    return {"votes": votes, "samples": found}


def evaluate(
    pipeline: Pipeline,
    cases: Sequence[Case],
    *,
    batch: int,
    shard: tuple[int, int] = (0, 1),
    voting: Voting | None = None,
    alone: int = 300,
    latency_items: int = 20,
    file: RecordFile | None = None,
) -> list[Record]:
    """The records of a shard, in order; those that `file` holds already are taken from there.

    Batch size can change a text through padding, so batches are always made of the same items, and a batch that a kill
    cut in two is asked again whole. alone: at items below this index the segmenter is measured alone too;
    latency_items: likewise the pipeline on one item, in seconds.
    """
    done = dict(file.done) if file else {}
    starts = [s for n, s in enumerate(range(0, len(cases), batch)) if n % shard[1] == shard[0]]
    for start in tqdm(starts, desc="evaluate", unit="batch"):
        indices = range(start, min(start + batch, len(cases)))
        todo = [i for i in indices if i not in done]
        if not todo:
            continue
        asked, new = {}, {}
        for i in indices:
            try:
                asked[i] = cases[i].read()
            except Exception as error:  # whatever a row makes its reader raise is that row's fault, not the run's
                new[i] = unread(i, cases[i], error)
        for i, result, more in _answers(pipeline, asked, voting, batch, todo):
            new[i] = record(i, cases[i], asked[i], result) | more
            if i in todo and i < alone and result.status.value in READABLE:
                new[i]["sam_ious"] = _segmenter_alone(pipeline, asked[i])
        for i in todo:
            if i < latency_items and i in asked:
                pipeline.forget()
                began = time.perf_counter()
                pipeline.segment(asked[i].image, asked[i].text)
                new[i]["seconds"] = time.perf_counter() - began
        if file:
            file.append([new[i] for i in todo])
        done |= {i: new[i] for i in todo}
    return [done[i] for i in sorted(done)]


def _answers(
    pipeline: Pipeline, asked: dict[int, Asked], voting: Voting | None, batch: int, todo: Sequence[int]
) -> Iterable[tuple[int, Segmentation, Record]]:
    if voting is not None:
        for i in todo:
            if i in asked:
                yield i, *answer_by_vote(pipeline, i, asked[i], voting, batch)
        return
    results = pipeline.segment_batch([a.image for a in asked.values()], [a.text for a in asked.values()])
    for i, result in zip(asked, results, strict=True):
        yield i, result, {}


def _segmenter_alone(pipeline: Pipeline, asked: Asked) -> list[float]:
    """Per object with a mask, from its true box and point."""
    from training.data.objects import published_points

    known = [(t, t.mask) for t in asked.targets if t.mask is not None]
    if not known:
        return []
    boxes: list[Box | None] = [(float(t.box[0]), float(t.box[1]), float(t.box[2]), float(t.box[3])) for t, _ in known]
    points: list[tuple[Point, ...]] = [(t.point or _float(published_points(mask)[0]),) for t, mask in known]
    found = pipeline.segmenter.segment(pipeline.segmenter.encode(asked.image), boxes, points)
    areas = [intersection_union(said, mask) for (said, _), (_, mask) in zip(found, known, strict=True)]
    return [above / below for above, below in areas]


def _series(records: Sequence[Record]) -> dict[str, list[float]]:
    """Of each accuracy the values of the items that are in it."""
    present = [r for r in records if not r["absent"]]
    return {
        "parse_ok": [float(r["status"] in ANSWERED) for r in records],
        "box_acc": [r["box_acc"] for r in present],
        "point_acc": [r["point_acc"] for r in present],
        "giou": [r["intersection"] / r["union"] if r["union"] else 0.0 for r in present if r["union"] is not None],
        "no_target_acc": [float(r["status"] == "NO_OBJECT") for r in records if r["absent"]],
    }


def _areas(records: Sequence[Record]) -> tuple[list[int], list[int]]:
    """Intersections and unions of the items with a target."""
    masked = [r for r in records if not r["absent"] and r["union"] is not None]
    return [r["intersection"] for r in masked], [r["union"] for r in masked]


def figures(records: Sequence[Record]) -> dict[str, Any]:
    """The accuracies of some records, with intervals."""
    out: dict[str, Any] = {"n": len(records)}
    for name, values in _series(records).items():
        out |= _mean(name, values)
    above, below = _areas(records)
    out["ciou"] = round(sum(above) / sum(below), 4) if sum(below) else None
    out["ciou_ci"] = ratio_interval(above, below) if sum(below) else None
    return out


def if_unread_wrong(records: Sequence[Record]) -> dict[str, Any]:
    """The accuracies, every unread item counted as a wrong answer; None where there is nothing to count."""
    known = [r for r in records if "absent" in r]
    lost = [0.0] * (len(records) - len(known))
    masked = [r for r in known if r["protocols"] is not None]
    series = _series(known) | {"t_acc": [float(r["status"] == "OK") for r in known if not r["absent"]]}
    areas = {"ciou": _areas(known)}
    for name in protocols.PROTOCOLS:
        scored = [r["protocols"][name] for r in masked]
        series[f"giou {name}"] = [s["iou"] for s in scored]
        areas[f"ciou {name}"] = [s["intersection"] for s in scored], [s["union"] for s in scored]
    out = {name: round(float(np.mean(values + lost)), 4) if values else None for name, values in series.items()}
    for name, (above, below) in areas.items():
        out[name] = round(sum(above) / sum(below), 4) if sum(below) and not lost else None
    return out


def _mean(name: str, values: Sequence[float]) -> dict[str, Any]:
    return {
        name: round(float(np.mean(values)), 4) if values else None,
        f"{name}_ci": interval(values) if values else None,
    }


def summarise(settings: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """All figures of a run from its records alone."""
    every, records = records, [r for r in records if r["status"] != "LEFT_OUT"]
    read = [r for r in records if r["status"] != "UNREAD"]
    present, absent = [r for r in read if not r["absent"]], [r for r in read if r["absent"]]
    masked = [r for r in read if r["protocols"] is not None]
    failed = [r for r in read if r["status"] not in READABLE]
    tabletop = str(settings.get("data", "")).startswith("tabletop:")
    out = {
        key: settings[key] for key in ("profile", "data", "split", "seed", "parser") if settings.get(key) is not None
    }
    out |= figures(read)
    out |= _mean("sam_iou", [v for r in read for v in r.get("sam_ious", ())])
    seconds = [r["seconds"] for r in read if "seconds" in r]
    out["latency_p50_ms"] = round(1000 * float(np.median(seconds)), 1) if seconds else None
    out["batch"] = settings.get("batch")
    out["failed"] = len(failed)
    out |= {"items": len(records), "read": len(read), "unread": len(records) - len(read)}
    out["left_out"] = len(every) - len(records)
    reasons = Counter(r["message"] for r in records if r["status"] == "UNREAD")
    out |= {"unread_reasons": dict(reasons.most_common(3)), "if_unread_wrong": if_unread_wrong(records)}
    out["statuses"] = dict(sorted(Counter(r["status"] for r in records).items()))
    out["protocols"] = {p: protocols.summary([r["protocols"][p] for r in masked]) for p in protocols.PROTOCOLS}
    out["with_ignored_pixels"] = sum(r["ignored"] > 0 for r in read)
    out |= _mean("box_acc_lenient", [r["box_acc_lenient"] for r in masked])
    out |= _mean("t_acc", [float(r["status"] == "OK") for r in present])
    out |= _mean("n_acc_published", [float(r["status"] in ("NO_OBJECT", "PARSE_ERROR")) for r in absent])
    if read:
        true, said = [len(r["true_boxes"]) for r in read], [len(r["boxes"]) for r in read]
        out["counting"] = counting(said, true)
        out["counting_published"] = counting(
            [n if r["status"] in ANSWERED else 1 for n, r in zip(said, read, strict=True)], true
        )
    if present:
        items = [r | {"category": r["instruction"] if settings.get("categories") else "object"} for r in read]
        out["detection"] = detection_ap(items)
        out["detection_published"] = detection_ap(items, zero_without_target=True)
    sampled = [r["samples"] for r in present if "samples" in r]
    if sampled:
        out |= _mean("sampled_box_acc", [float(np.mean([s["box_acc"] for s in some])) for some in sampled])
        out |= _mean("best_of_n_box_acc", [max(s["box_acc"] for s in some) for some in sampled])
        valid = [s["status"] in ANSWERED for r in read for s in r.get("samples", ())]
        out["samples_readable"] = round(float(np.mean(valid)), 4)
    if tabletop:
        out["simple_box_acc"] = figures([r for r in read if r["kind"] in SIMPLE])["box_acc"]
    kinds = KINDS if tabletop else sorted({r["kind"] for r in read})
    out["kinds"] = {kind: figures([r for r in read if r["kind"] == kind]) for kind in kinds}
    return out


def table(summary: dict[str, Any]) -> str:
    """The figures for a terminal; both protocols side by side."""

    def shown(some: dict[str, Any], name: str) -> str:
        low_high = some.get(f"{name}_ci")
        return f"{some[name]} {list(low_high)}" if low_high else str(some[name])

    lines = []
    for name in ("parse_ok", "box_acc", "point_acc", "giou", "ciou", "no_target_acc", "t_acc", "sam_iou"):
        lines.append(f"{name:16} {shown(summary, name)}")
    lines.append(f"{'box_acc_lenient':16} {shown(summary, 'box_acc_lenient')}  (as VisionReasoner publishes it)")
    for name in ("sampled_box_acc", "best_of_n_box_acc"):
        if name in summary:
            lines.append(f"{name:16} {shown(summary, name)}")
    both = summary["protocols"]
    lines.append(f"\n{'protocol':16} " + " ".join(f"{name:30}" for name in both))
    for name in ("giou", "ciou", "published_giou", "published_ciou"):
        lines.append(f"{name:16} " + " ".join(f"{shown(some, name):30}" for some in both.values()))
    lines.append(f"{'n, dropped':16} " + " ".join(f"{some['n']}, {some['dropped']!s:25}" for some in both.values()))
    lines.append(f"\nread {summary['read']} of {summary['items']} items, in batches of {summary['batch']}")
    if summary.get("left_out"):
        lines.append(f"left out: {summary['left_out']} rows that are right and no item (their records say why)")
    if summary["unread"]:
        lines += [f"  {count} unread: {reason[:200]}" for reason, count in summary["unread_reasons"].items()]
        lines.append(f"all figures are over those; if the other {summary['unread']} were wrong:")
        lines += [
            f"  {name:16} {'not known' if value is None else value}"
            for name, value in summary["if_unread_wrong"].items()
            if value is not None or name.startswith("ciou")
        ]
    lines.append("answers: " + ", ".join(f"{k} {v}" for k, v in summary["statuses"].items()))
    lines += [
        f"  {kind:14} box_acc {f['box_acc']} no_target {f['no_target_acc']}" for kind, f in summary["kinds"].items()
    ]
    return "\n".join(lines)


def read_cases(settings: dict[str, Any], root: Path) -> list[Case]:
    """The items that settings describe. Raises ValueError for data that is not there."""
    family, _, where = settings["data"].partition(":")
    if family == "tabletop":
        known = ", ".join((*SPLITS, *wordings.SPLITS))
        split = wordings.SPLITS.get(where, where)
        if split not in SPLITS:
            raise ValueError(f"--data {settings['data']}: expected tabletop:SPLIT with SPLIT in {known}")
        scenes = Scenes(render_split(root, split, settings["scenes"]), limit=settings["scenes"])
        words = wordings.HELD_OUT if where in wordings.SPLITS else None
        count, seed = settings["n"] or QUESTIONS, settings["seed"]
        asked = questions(scenes, count, seed, ood=split == "test-ood", words=words)
        return tabletop_cases(scenes, asked, f"{split}-{seed}")  # in other words it is the same item
    if family not in SOURCES or not where:
        known = ", ".join(f"{name}:PATH" for name in SOURCES if name != "tabletop")
        raise ValueError(f"--data {settings['data']}: expected tabletop:SPLIT or one of {known}")
    images = Path(settings["images"]) if settings["images"] else None
    check_images(family, images)
    if not Path(where).exists() and family != "rows":
        raise ValueError(f"--data {settings['data']}: there is no {where}")
    given = {key: settings[key] for key in ("split", "by", "sentences", "seed")}
    source = open_source(Reading(family, where, images=images, **given))
    return sample_cases(source, family)[: settings["n"]]


def weights(name: str, role: str, revision: str, subfolder: str | None = None) -> str:
    """Which weights a name stands for: the hub's commit, or a digest of a folder's files."""
    if revision:
        return revision
    from segzero_ros.models.checkpoints import resolve

    digest = hashlib.blake2b(digest_size=16)
    folder = resolve(name, role, offline=True, subfolder=subfolder)
    config = "adapter_config.json" if role == "adapter" else "config.json"
    for path in sorted([folder / config, *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def _alone(cases: Sequence[Case], count: int = 300) -> int:
    """Where the `count`-th item with a target is; as the figures given before were made, on the tabletop."""
    seen = 0
    for n, case in enumerate(cases):
        seen += bool(case.read().targets)
        if seen == count:
            return n + 1
    return len(cases)


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    try:
        found = int(number), int(count)
    except ValueError:
        found = -1, 0
    if not 0 <= found[0] < found[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 0 <= I < N")
    return found


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="segzero-train evaluate", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--profile", default="demo")
    p.add_argument("--data", default="tabletop:test", help="tabletop:SPLIT, or FORMAT:PATH as `prepare` reads it")
    p.add_argument("--root", type=Path, default=Path("build/tabletop"), help="where scenes are kept")
    p.add_argument("--n", type=int, help=f"items (default: all; tabletop: {QUESTIONS})")
    p.add_argument("--scenes", type=int, default=SCENES)
    p.add_argument("--split", default="test", help="of FORMAT:PATH")
    p.add_argument("--by", help="whose splits of RefCOCO*")
    p.add_argument("--images", type=Path, help="folder of the images, where the format does not say")
    p.add_argument("--sentences", choices=("first", "all"), default="first")
    p.add_argument("--categories", action="store_true", help="instructions are category names: AP is their mean")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument(
        "--parser",
        choices=("node", "published"),
        default="node",
        help="what reads answers; published: as their scripts",
    )
    p.add_argument("--samples", type=int, default=0, help="vote over so many samples per item; 0: greedy")
    p.add_argument("--temperature", type=float, default=1.0, help="of samples")
    p.add_argument("--top-p", type=float, default=0.9, help="of samples")
    p.add_argument("--constrain", action="store_true", help="hold answers to the profile's grammar")
    p.add_argument("--thought-budget", type=int, metavar="TOKENS", help="close thoughts then; 0: at once")
    p.add_argument("--latency-items", type=int, default=20, help="asked once more alone, for their time")
    p.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="I/N", help="the I-th of N, records in F.I-of-N.jsonl"
    )
    p.add_argument("--reasoner", help="another checkpoint than the profile's")
    p.add_argument("--adapter", help="a LoRA adapter that is merged into the reasoner: folder or hub name")
    p.add_argument("--segmenter", help="another checkpoint than the profile's")
    p.add_argument("--device", help="cpu, cuda, cuda:1, ...; by itself the shard's own GPU")
    p.add_argument("--dtype")
    p.add_argument("--attention")
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")
    p.add_argument("--summary", type=Path, help="the same object into a file")
    p.add_argument("--records", type=Path, help="per-item records, JSONL; a killed run continues")
    p.add_argument("--restart", action="store_true", help="set older records aside instead of going on with them")
    p.add_argument("--from-records", type=Path, nargs="+", metavar="F", help="figures of records, shards joined")
    p.add_argument("--pictures", type=Path, help="a page of failures and wins, PNG")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    arguments = p.parse_args(argv)
    if arguments.batch < 1 or arguments.samples < 0 or (arguments.n is not None and arguments.n < 1):
        p.error("--batch and --n must be at least 1, --samples at least 0")
    try:
        return _run(arguments)
    except (RecordsError, ProfileError, SegzeroError, ValueError, OSError) as error:
        print(f"segzero-train evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("segzero-train evaluate: interrupted; with --records the same call continues", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    cases: list[Case] | None = None
    if arguments.from_records:
        settings, records = load(arguments.from_records, "absent")
        if arguments.records:
            write(arguments.records, settings, records)
    else:
        settings, cases, records = _measure(arguments)
    summary = summarise(settings, records)
    if arguments.pictures:
        from training.evaluation import page

        found = cases if cases is not None else read_cases(settings, arguments.root)

        def look(index: int) -> tuple[Image, Mask | None]:
            asked = found[index].read()
            return asked.image, asked.truth()

        page.draw(records, look, arguments.pictures)
    if arguments.summary:
        arguments.summary.parent.mkdir(parents=True, exist_ok=True)
        part = arguments.summary.with_name(arguments.summary.name + ".part")
        part.write_text(json.dumps(summary, indent=1))
        part.replace(arguments.summary)
    print(json.dumps(summary) if arguments.json else table(summary))
    return 0 if summary["failed"] == summary["unread"] == 0 else 1


def own_gpu(shard: tuple[int, int]) -> str | None:
    """Of one of several shards on a machine with several GPUs; None: the one that is taken anyway."""
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{shard[0] % gpus}" if shard[1] > 1 and gpus > 1 else None


def _measure(a: argparse.Namespace) -> tuple[dict[str, Any], list[Case], list[Record]]:
    profile = load_profile(a.profile)
    settings: dict[str, Any] = {"profile": a.profile, "data": a.data, "n": a.n, "seed": a.seed, "batch": a.batch}
    if a.data.startswith("tabletop:"):
        settings |= {"scenes": a.scenes}
    else:
        settings |= {"split": a.split, "by": a.by, "sentences": a.sentences, "categories": a.categories}
        settings |= {"images": str(a.images) if a.images else None}
    if a.parser != "node":
        settings |= {"parser": a.parser}
    if a.samples:
        settings |= {"samples": a.samples, "temperature": a.temperature, "top_p": a.top_p}
    if a.constrain or a.thought_budget is not None:
        settings |= {"constrain": a.constrain, "thought_budget": a.thought_budget}
    cases = read_cases(settings, a.root)
    if not cases:
        raise ValueError(f"--data {a.data}: there are no items")
    device = a.device or own_gpu(a.shard)
    pipeline = Pipeline.load(
        profile,
        reasoner=a.reasoner,
        adapter=a.adapter,
        segmenter=a.segmenter,
        device=device,
        dtype=a.dtype,
        attention=a.attention,
        trial=False,
        constrain=a.constrain or None,
    )
    if a.thought_budget is not None:
        pipeline.reasoning.thought_budget = ThoughtBudget(a.thought_budget)
    pipeline.strict = a.parser == "published"
    ids = hashlib.blake2b("\n".join(c.id for c in cases).encode(), digest_size=16).hexdigest()
    settings |= {"items": len(cases), "ids": ids, "profile_settings": asdict(profile), "shard": list(a.shard)}
    for role, info in (("reasoner", pipeline.reasoner.info), ("segmenter", pipeline.segmenter.info)):
        device = info.device.split(":")[0]
        settings[role] = {"name": info.name, "weights": weights(info.name, role, info.revision), "dtype": info.dtype}
        settings[role] |= {"device": device}
        if info.adapter:
            subfolder = profile.adapter_subfolder if info.adapter == profile.adapter else None
            settings[role]["adapter"] = {
                "name": info.adapter,
                "weights": weights(info.adapter, "adapter", "", subfolder),
            }
    file = RecordFile(shard_path(a.records, a.shard), settings, restart=a.restart) if a.records else None
    voting = Voting(a.samples, a.temperature, a.top_p, a.seed) if a.samples else None
    alone = _alone(cases) if a.data.startswith("tabletop:") else 300
    given = {"batch": a.batch, "shard": a.shard, "voting": voting, "alone": alone, "latency_items": a.latency_items}
    records = evaluate(pipeline, cases, file=file, **given)
    return settings, cases, records


if __name__ == "__main__":
    sys.exit(main())
