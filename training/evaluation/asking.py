"""Items asked through the node's own pipeline, batch by batch: greedily, or by a vote over samples."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segzero_ros.core.contract import Box, Point, Sampling, Segmentation, Status
from segzero_ros.core.geometry import union_mask
from segzero_ros.pipeline import Pipeline
from training.data.objects import published_points
from training.evaluation.item_records import ANSWERED, READABLE, record, unread
from training.evaluation.items import Asked, Case, as_floats
from training.measures import protocols
from training.measures.metrics import box_accuracy, intersection_union
from training.measures.records import Record, RecordFile, in_batches
from training.measures.voting import Ballot, vote


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
    if chosen is None:  # a model that failed is not an answer that cannot be read
        failed = (r for r in results if r.status.value not in READABLE)
        return next(failed, results[0]), _samples(results, asked, [])
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

    def ask(indices: Sequence[int], todo: Sequence[int]) -> dict[int, Record]:
        asked, new = dict[int, Asked](), dict[int, Record]()
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
        return new

    return in_batches(len(cases), batch, ask, file=file, shard=shard, desc="evaluate")


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
    known = [(t, t.mask) for t in asked.targets if t.mask is not None]
    if not known:
        return []
    boxes: list[Box | None] = [(float(t.box[0]), float(t.box[1]), float(t.box[2]), float(t.box[3])) for t, _ in known]
    points: list[tuple[Point, ...]] = [(t.point or as_floats(published_points(mask)[0]),) for t, mask in known]
    found = pipeline.segmenter.segment(pipeline.segmenter.encode(asked.image), boxes, points)
    areas = [intersection_union(said, mask) for (said, _), (_, mask) in zip(found, known, strict=True)]
    return [above / below for above, below in areas]
