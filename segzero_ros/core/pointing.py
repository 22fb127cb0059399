"""Prompts that are not words: checked, and turned into candidates. They are hostile, as all that comes from outside.

A prompt is a new object, or it corrects an instance of an earlier answer. That instance is prompted again by all that
it was prompted with and what is new, and by its earlier mask where the segmenter can read one (`Segmenter`).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from segzero_ros.core.contract import (
    Box,
    Boxes,
    Candidate,
    Image,
    Instance,
    Masks,
    Point,
    Prompt,
    Segmentation,
    SegzeroError,
    Status,
)
from segzero_ros.core.geometry import clip_point
from segzero_ros.core.steps import Deadline, OnEvent, Progress, SegmentingStep, check_image, name_empty_masks

MAX_PROMPTS = 100
MAX_POINTS = 100  # of one object, those of its earlier prompts included
MAX_INSTANCES = 254  # as the reasoning model may name; a correction can make an answer longer
UNNAMED = "object"


@dataclass(frozen=True)
class Pointed:
    """Prompts as candidates: `candidates[n]` becomes the instance with the index `indices[n]`.

    earlier: the answer that is corrected, None where all is new. clipped: numbers of the prompts whose boxes went
    beyond the image.
    """

    candidates: tuple[Candidate, ...]
    indices: tuple[int, ...]
    earlier: Segmentation | None
    clipped: tuple[int, ...]

    def merge(self, made: Sequence[Instance]) -> tuple[Instance, ...]:
        """The whole answer. made: an instance for each candidate. What was lifted before is dropped."""
        kept = {i.index: replace(i, lifted=None) for i in (self.earlier.instances if self.earlier else ())}
        kept |= {index: replace(i, index=index) for index, i in zip(self.indices, made, strict=True)}
        return tuple(kept.values())

    def sentences(self) -> list[str]:
        """For a person: how many objects there are, and what was changed."""
        known = {i.index for i in self.earlier.instances} if self.earlier else set()
        count, corrected = len(known.union(self.indices)), len(known.intersection(self.indices))
        said = [f"{count} object{'s' * (count > 1)}" + f", {corrected} corrected" * (corrected > 0)]
        if self.clipped:
            numbers = ", ".join(map(str, self.clipped))
            said.append(f"clipped to the image: the box of prompt{'s' * (len(self.clipped) > 1)} {numbers}")
        return said


def read_prompts(
    prompts: Sequence[Prompt], label: str, height: int, width: int, earlier: Segmentation | None = None
) -> Pointed:
    """Raises SegzeroError(BAD_REQUEST) with a sentence that names the prompt by its number, from 1.

    label: of new objects, UNNAMED without one; a corrected object keeps its own. earlier: the answer that prompts with
    `corrects` refer to; whose it is, is not checked here. It does not matter where no prompt corrects anything.
    """
    if not prompts:
        raise SegzeroError(Status.BAD_REQUEST, "there is neither an instruction nor a prompt")
    if len(prompts) > MAX_PROMPTS:
        raise SegzeroError(Status.BAD_REQUEST, f"there are {len(prompts)} prompts; {MAX_PROMPTS} are taken")
    known = _correctable(prompts, height, width, earlier)
    unused = max(known, default=0) + 1
    if len(known) + sum(p.corrects is None for p in prompts) > MAX_INSTANCES:
        sentence = f"the answer would have more than {MAX_INSTANCES} objects; ask for new ones without a correction"
        raise SegzeroError(Status.BAD_REQUEST, sentence)
    candidates, indices, clipped = [], [], []
    for number, prompt in enumerate(prompts, 1):
        box = _box(number, prompt.box, height, width)
        on, off = _points(number, prompt, height, width)
        if box is not None and box != tuple(prompt.box or ()):
            clipped.append(number)
        if prompt.corrects is None:
            candidates.append(Candidate(box, on, label or UNNAMED, off))
            indices.append(unused)
            unused += 1
        else:
            if box is None and not on and not off:
                _refuse(number, "it corrects an object with neither a box nor a point")
            before = known[prompt.corrects[1]]
            candidates.append(_corrected(before, box, on, off, height, width))
            indices.append(before.index)
        _check_whole(number, candidates[-1])
    return Pointed(tuple(candidates), tuple(indices), earlier if known else None, tuple(clipped))


def answer_prompts(
    segmenting: SegmentingStep,
    image: Image,
    prompts: Sequence[Prompt],
    label: str,
    earlier: Segmentation | None,
    stop: Deadline,
    progress: Progress,
    on_event: OnEvent,
) -> Segmentation:
    """Emits Boxes and Masks. Raises SegzeroError and what the model raises."""
    began = time.perf_counter()
    check_image(image)
    height, width = image.shape[:2]
    pointed = read_prompts(prompts, label, height, width, earlier)
    progress.note(preprocess=time.perf_counter() - began)
    if stop.is_set():
        raise stop.error()
    on_event(Boxes(pointed.candidates))
    made = segmenting.point(image, pointed.candidates, stop=stop, progress=progress)
    instances = pointed.merge(made)
    on_event(Masks(instances))
    changed = [i for i in instances if i.index in pointed.indices]
    message = "; ".join([*pointed.sentences(), *name_empty_masks(changed)])
    if pointed.earlier is None:
        model = segmenting.segmenter.info.full_name
        return Segmentation(Status.OK, message, label, height, width, instances, model=model)
    label = label or pointed.earlier.instruction
    return replace(
        pointed.earlier, status=Status.OK, message=message, instruction=label, instances=instances, scene=None
    )


def _correctable(
    prompts: Sequence[Prompt], height: int, width: int, earlier: Segmentation | None
) -> dict[int, Instance]:
    """The earlier answer's instances by index; none where nothing is corrected."""
    wanted = {n: p.corrects for n, p in enumerate(prompts, 1) if p.corrects is not None}
    if not wanted:
        return {}
    first = next(iter(wanted))
    if earlier is None:
        _refuse(first, "it corrects an answer that is not kept")
    if (earlier.height, earlier.width) != (height, width):
        size = f"{earlier.width} x {earlier.height} pixels"
        _refuse(first, f"it corrects an answer to an image of {size}, and this one has {width} x {height}")
    known = {i.index: i for i in earlier.instances}
    times = Counter(index for _, index in wanted.values())
    for number, (request, index) in wanted.items():
        if request != wanted[first][0]:
            _refuse(number, f"it corrects another answer than prompt {first}")
        if index not in known:
            has = f"has the objects 1 to {max(known)}" if known else "has no objects"
            _refuse(number, f"it corrects object {index}, and that answer {has}")
        if times[index] > 1:
            _refuse(number, f"object {index} is corrected by more than one prompt")
    return known


def _corrected(
    before: Instance, box: Box | None, on: tuple[Point, ...], off: tuple[Point, ...], height: int, width: int
) -> Candidate:
    """All that an instance was prompted with, and what is new.

    A new point takes back an earlier one of the other kind on the same pixel. With a new box the question is another
    than that which the earlier mask answered, so the mask is left out.
    """
    held = tuple(clip_point(p, height, width) for p in before.prompt_points)
    return Candidate(
        box or before.prompt_box,
        _without(held, off) + on,
        before.label,
        _without(before.negative_points, on) + off,
        before.logits if box is None and before.area else None,
    )


def _without(points: tuple[Point, ...], others: tuple[Point, ...]) -> tuple[Point, ...]:
    pixels = {(int(x), int(y)) for x, y in others}
    return tuple((x, y) for x, y in points if (int(x), int(y)) not in pixels)


def _check_whole(number: int, c: Candidate) -> None:
    if c.box is None and not c.points:
        _refuse(number, "it has neither a box nor a point on the object")
    if (count := len(c.points) + len(c.negative)) > MAX_POINTS:
        _refuse(number, f"it comes to {count} points; {MAX_POINTS} are taken")


def _box(number: int, given: Any, height: int, width: int) -> Box | None:
    """Clipped to the image."""
    if given is None:
        return None
    x1, y1, x2, y2 = _numbers(number, given, 4, "box")
    shown = f"its box [{x1:g}, {y1:g}, {x2:g}, {y2:g}]"
    if x1 > x2 or y1 > y2:
        _refuse(number, f"{shown} has its edges the wrong way round; it is x_min, y_min, x_max, y_max")
    if x1 == x2 or y1 == y2:
        _refuse(number, f"{shown} has no area")
    clipped = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        _refuse(number, f"{shown} lies outside the image of {width} x {height} pixels")
    return clipped


def _points(number: int, prompt: Prompt, height: int, width: int) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """Those on the object, and those that are not. Without `positive` all are on it."""
    count = len(prompt.points)
    if len(prompt.positive) not in (0, count):
        _refuse(number, f"it has {count} points, and says of {len(prompt.positive)} whether they are on the object")
    if count > MAX_POINTS:
        _refuse(number, f"it comes to {count} points; {MAX_POINTS} are taken")
    on: list[Point] = []
    off: list[Point] = []
    for point, positive in zip(prompt.points, prompt.positive or (True,) * count, strict=True):
        x, y = _numbers(number, point, 2, "point")
        if not (0 <= x < width and 0 <= y < height):
            _refuse(number, f"its point ({x:g}, {y:g}) lies outside the image of {width} x {height} pixels")
        (on if positive else off).append((x, y))
    return tuple(on), tuple(off)


def _numbers(number: int, given: Any, count: int, what: str) -> list[float]:
    try:
        values = [float(v) for v in given]
    except (TypeError, ValueError, OverflowError):
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        _refuse(number, f"its {what} is not {'four' if count == 4 else 'two'} finite numbers")
    return values


def _refuse(number: int, why: str) -> NoReturn:
    raise SegzeroError(Status.BAD_REQUEST, f"prompt {number}: {why}")
