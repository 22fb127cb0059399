"""How soon a request ends when it must: cancelled, out of time, out of memory; and what happens after it.

Hooks on the models' blocks say when a stage has begun, so that nothing depends on a guess of how long it takes.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from segzero_ros.core.contract import (
    Cancel,
    Done,
    Generation,
    Image,
    LoadedModel,
    Reasoning,
    Status,
)
from segzero_ros.core.failures import is_out_of_memory
from segzero_ros.models.devices import release_memory
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile
from segzero_ros.rehearse.machine import wait_for
from segzero_ros.rehearse.stages import ANSWERED, ENCODER, LANGUAGE, TOWER, Answers, hooked, inside_first_block, part_of

# Bytes of the pieces that a GPU is filled with. torch asks for 20 MB at once when less than 10 MB are wanted.
_BALLAST = (1 << 30, 1 << 26, 10 << 20, 1 << 21)


@dataclass(frozen=True)
class End:
    """What a request that was stopped in `where` ended as, and how many seconds after that."""

    where: str
    status: str
    seconds: float


@dataclass(frozen=True)
class Stream:
    """One streamed request: events told, seconds to the first text, how it ended."""

    events: int
    first_text: float | None
    last: str


@dataclass(frozen=True)
class Recovery:
    """A request with the device's memory full, and the next one when there is room again."""

    full: str
    after: str

    @property
    def good(self) -> bool:
        """A small model may find room enough in what torch keeps: then the first is answered too."""
        answered = {status.value for status in ANSWERED}
        return self.full in answered | {Status.OUT_OF_MEMORY.value} and self.after in answered


def measure_cancels(pipeline: Pipeline, image: Image, instruction: str) -> list[End]:
    """Cancelled in the vision tower, in the language model's prefill, after two tokens, and in SAM's encoder."""
    tower, language = (inside_first_block(part_of(pipeline.reasoner, names)) for names in (TOWER, LANGUAGE))
    encoder = inside_first_block(part_of(pipeline.segmenter, ENCODER))
    drawn = drawing(pipeline)
    return [
        _cancelled(pipeline, image, instruction, "vision tower", tower, 1),
        _cancelled(pipeline, image, instruction, "prefill", language, 1),
        _cancelled(pipeline, image, instruction, "writing", language, 3),
        _cancelled(drawn, image, instruction, "SAM encoder", encoder, 1),
    ]


def _cancelled(
    pipeline: Pipeline, image: Image, instruction: str, where: str, layer: torch.nn.Module, call: int
) -> End:
    """call: at which call of the layer the flag is set."""
    flag, calls, at = Cancel(), 0, 0.0

    def trip(*_: object) -> None:
        nonlocal calls, at
        calls += 1
        if calls == call:
            at = time.perf_counter()
            flag.set()

    with hooked(layer, before=trip):
        status = pipeline.segment(image, instruction, cancel=flag).status.value
    wait_for(torch.device(pipeline.segmenter.info.device))
    ended = time.perf_counter()
    pipeline.forget()
    return End(where, status if at else "ended before", ended - at if at else 0.0)


def measure_timeout(pipeline: Pipeline, image: Image, instruction: str, answers: Answers) -> End:
    """With a time limit that is over in the middle of the vision tower: seconds beyond the limit."""
    limit = answers.square + answers.pixels + answers.vision / 2
    began = time.perf_counter()

    def late(*_: object) -> None:
        """A tower that is quicker than it was waits for the limit."""
        threading.Event().wait(max(0.0, began + limit - time.perf_counter()))

    with hooked(inside_first_block(part_of(pipeline.reasoner, TOWER)), before=late):
        result = pipeline.segment(image, instruction, timeout=limit)
    return End(f"time limit {limit:.3g} s", result.status.value, max(0.0, result.timing.total - limit))


def measure_stream(pipeline: Pipeline, image: Image, instruction: str) -> Stream:
    began, first, count = time.perf_counter(), None, 0
    last = ""
    for event in pipeline.stream(image, instruction):
        count += 1
        if isinstance(event, Reasoning) and first is None:
            first = time.perf_counter() - began
        last = event.result.status.value if isinstance(event, Done) else type(event).__name__
    return Stream(count, first, last)


def measure_recovery(
    pipeline: Pipeline, image: Image, instruction: str, full: AbstractContextManager[object]
) -> Recovery:
    """full: within it there is no memory left."""
    with full:
        crowded = pipeline.segment(image, instruction).status.value
    pipeline.forget()
    release_memory()
    return Recovery(crowded, pipeline.segment(image, instruction).status.value)


@contextmanager
def filled(device: torch.device) -> Iterator[None]:
    """A CUDA device with no memory left, given back at the end."""
    release_memory()
    ballast = []
    for size in _BALLAST:
        while True:
            try:
                ballast.append(torch.empty(size, dtype=torch.uint8, device=device))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                break
    try:
        yield
    finally:
        ballast.clear()
        release_memory()


def drawing(pipeline: Pipeline) -> Pipeline:
    """The same segmenter behind a reasoner that has its answer ready: random weights never write a readable one."""
    profile = replace(load_profile("demo"), sam_prompts=pipeline.profile.sam_prompts)
    return Pipeline(_Scripted(profile.square), pipeline.segmenter, profile)


class _Scripted:
    """See contract.Reasoner."""

    info = LoadedModel("scripted", "", 0, "", "cpu", 0)

    def __init__(self, square: int) -> None:
        third = square // 3
        item: dict[str, Any] = {"bbox_2d": [third, third, 2 * third, 2 * third], "point_2d": [square // 2, square // 2]}
        item["label"] = "thing"
        self.text = f"<think>t</think><answer>{json.dumps([item])}</answer>"

    def generate(self, squares: list[Image], prompts: list[str], **_: object) -> list[Generation]:
        return [Generation(self.text, 0, 0, False, False, 0.0) for _ in squares]
