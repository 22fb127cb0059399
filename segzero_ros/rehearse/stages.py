"""How long each stage of an answer takes, found by hooks on the models' parts; all seconds and bytes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from segzero_ros.core.contract import Box, Image, Point, Segmentation, SegzeroError, Status
from segzero_ros.pipeline import Pipeline
from segzero_ros.rehearse.machine import Peak, wait_for

WORDS = ["the", "red", "mug", "on", "the", "left", "of", "the", "table"]
# Names of the models' parts, in all the classes that are loaded.
TOWER, LANGUAGE, ENCODER = ("visual", "vision_tower"), ("language_model",), ("vision_encoder",)
ANSWERED = (Status.OK, Status.NO_OBJECT, Status.PARSE_ERROR)  # random weights write no readable answer


@dataclass(frozen=True)
class Answers:
    """The reasoning model's part. All but the first are of warm answers, their median.

    square: the picture's resizing. pixels: to the model's numbers and onto the device. vision: the tower. prefill: the
    language model up to the first token. token: each one after it. token_bytes: weights that one token reads.
    """

    prompt_tokens: int
    completion_tokens: int
    first_answer: float
    first_answer_memory: int
    square: float
    pixels: float
    vision: float
    prefill: float
    token: float
    token_bytes: int

    @property
    def first_token(self) -> float:
        return self.square + self.pixels + self.vision + self.prefill

    def seconds(self, tokens: int) -> float:
        """Of an answer of so many tokens: computed, since no such answer was written."""
        return self.first_token + max(0, tokens - 1) * self.token


@dataclass(frozen=True)
class Masks:
    objects: int
    seconds: float
    memory: int


@dataclass(frozen=True)
class Encoding:
    """SAM's part for one size of picture."""

    width: int
    height: int
    first: float
    seconds: float
    memory: int
    masks: list[Masks] = field(default_factory=list)


def picture(width: int, height: int) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def fill_prompt(reasoner: Any, tokens: int) -> str:
    """Words that make a prompt of so many tokens besides the image's, as near as whole words come."""
    text = WORDS[0]
    for i in range(1, 4 * tokens):
        longer = f"{text} {WORDS[i % len(WORDS)]}"
        if len(reasoner.prompt_ids(longer)) - reasoner.image_tokens > tokens:
            break
        text = longer
    return text


def measure_answers(
    pipeline: Pipeline, image: Image, instruction: str, repeat: int, on_step: Callable[[str], None]
) -> Answers:
    """Raises SegzeroError with the status that a request ended with, where it was not answered."""
    device = torch.device(pipeline.reasoner.info.device)
    on_step("first answer")
    with Peak(device) as peak:
        first = ask(pipeline, image, instruction)
    runs = []
    for i in range(repeat):
        on_step(f"answer {i + 2} of {repeat + 1}")
        runs.append(_timed_answer(pipeline, image, instruction, device))
    square, pixels, vision, prefill, token = (statistics.median(values) for values in zip(*runs, strict=True))
    return Answers(
        prompt_tokens=first.timing.prompt_tokens,
        completion_tokens=first.timing.completion_tokens,
        first_answer=first.timing.total,
        first_answer_memory=peak.bytes,
        square=square,
        pixels=pixels,
        vision=vision,
        prefill=prefill,
        token=token,
        token_bytes=_token_bytes(pipeline),
    )


def ask(pipeline: Pipeline, image: Image, instruction: str) -> Segmentation:
    result = pipeline.segment(image, instruction)
    if result.status not in ANSWERED:
        raise SegzeroError(result.status, result.message)
    return result


def _timed_answer(
    pipeline: Pipeline, image: Image, instruction: str, device: torch.device
) -> tuple[float, float, float, float, float]:
    """square, pixels, vision, prefill, token."""
    marks: list[float] = []

    def mark(*_: object) -> None:
        wait_for(device)
        marks.append(time.perf_counter())

    with hooked(part_of(pipeline.reasoner, TOWER), before=mark, after=mark):
        began = time.perf_counter()
        timing = ask(pipeline, image, instruction).timing
    entered, left = marks[0] - began, marks[1] - began
    written = timing.reason - timing.first_token
    return (
        timing.preprocess,
        entered - timing.preprocess,
        left - entered,
        timing.preprocess + timing.first_token - left,
        written / max(1, timing.completion_tokens - 1),
    )


def measure_encoding(
    pipeline: Pipeline, width: int, height: int, objects: list[int], repeat: int, on_step: Callable[[str], None]
) -> Encoding:
    """Raises what the model raises."""
    segmenter, device = pipeline.segmenter, torch.device(pipeline.segmenter.info.device)
    image = picture(width, height)
    on_step(f"encoding {width} x {height}")
    with Peak(device) as peak:
        first, features = _seconds(lambda: segmenter.encode(image), device)
    seconds = min(_seconds(lambda: segmenter.encode(image), device)[0] for _ in range(repeat))
    masks = []
    for count in objects:
        on_step(f"{count} objects at {width} x {height}")
        boxes, points = prompts(count, width, height)

        def take(boxes: list[Box] = boxes, points: list[tuple[Point, ...]] = points) -> None:
            for _ in segmenter.segment(features, list(boxes), points):
                pass  # one by one, as the pipeline takes them

        with Peak(device) as most:
            _seconds(take, device)
        masks.append(Masks(count, min(_seconds(take, device)[0] for _ in range(repeat)), most.bytes))
    return Encoding(width, height, first, seconds, peak.bytes, masks)


def prompts(count: int, width: int, height: int) -> tuple[list[Box], list[tuple[Point, ...]]]:
    """Boxes of a ninth of the picture, one beside the other, each with the point in its middle."""
    shifts = [(i / count * width * 2 / 3, i / count * height * 2 / 3) for i in range(count)]
    boxes = [(x, y, x + width / 3, y + height / 3) for x, y in shifts]
    return boxes, [(((b[0] + b[2]) / 2, (b[1] + b[3]) / 2),) for b in boxes]


def part_of(adapter: Any, names: tuple[str, ...]) -> torch.nn.Module:
    """The first part of an adapter's model that has one of these names."""
    for name, module in adapter.model.named_modules():
        if name.rpartition(".")[2] in names:
            return module
    raise SegzeroError(Status.BACKEND_ERROR, f"the model has no part of the name {' or '.join(names)}")


def inside_first_block(module: torch.nn.Module) -> torch.nn.Module:
    """A layer of the first of the part's blocks: a hook on it runs when that block has begun."""
    block = next(m for m in module.modules() if isinstance(m, torch.nn.ModuleList))[0]
    return next(m for m in block.modules() if not list(m.children()))


@contextmanager
def hooked(
    module: torch.nn.Module,
    before: Callable[..., None] | None = None,
    after: Callable[..., None] | None = None,
) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(before)] if before else []
    handles += [module.register_forward_hook(after)] if after else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _seconds(call: Callable[[], object], device: torch.device) -> tuple[float, object]:
    wait_for(device)
    began = time.perf_counter()
    result = call()
    wait_for(device)
    return time.perf_counter() - began, result


def _token_bytes(pipeline: Pipeline) -> int:
    """Of the language model's layers and the head, which is read whole for each token; the embedding is looked up."""
    reasoner: Any = pipeline.reasoner
    layers = part_of(reasoner, LANGUAGE)
    read = {p for n, p in layers.named_parameters() if "embed_tokens" not in n}
    head = reasoner.model.get_output_embeddings()
    read |= set(head.parameters()) if head is not None else set()
    return sum(p.numel() * p.element_size() for p in read)
