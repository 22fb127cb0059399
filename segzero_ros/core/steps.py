"""The two steps of an answer: reasoning (image and words to boxes and points) and segmenting (those to masks).

Each owns one model and neither knows the other, so that two threads can run them; `Boxes` is what passes between.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from segzero_ros.core.answer import parse_answer
from segzero_ros.core.contract import (
    Answer,
    Box,
    Boxes,
    Cancel,
    Candidate,
    Event,
    Generation,
    Image,
    Instance,
    Masks,
    Point,
    Reasoner,
    Reasoning,
    Segmenter,
    SegzeroError,
    Status,
    Timing,
)
from segzero_ros.core.geometry import clip_point, pack, square_image, to_source
from segzero_ros.core.profiles import Profile
from segzero_ros.core.prompt import MAX_CHARS, build_prompt, validate_instruction

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Thought:
    """What the reasoning step found. candidates: in source pixels; empty unless answer.status is OK.

    timing: of this step alone. text: all that the model wrote.
    """

    answer: Answer
    candidates: tuple[Candidate, ...]
    timing: Timing
    text: str


class ReasoningStep:
    """Image and instruction to candidates. With `strict`, answers are read as the published scripts read them."""

    def __init__(self, reasoner: Reasoner, profile: Profile) -> None:
        self.reasoner, self.profile = reasoner, profile
        self.max_instruction_chars = MAX_CHARS
        self.strict = False

    def prompt(self, image: Image, instruction: str) -> str:
        """The model's words for an instruction. Raises SegzeroError for an image or an instruction that is none."""
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise SegzeroError(Status.UNSUPPORTED_ENCODING, "an image is a uint8 array (height, width, 3), RGB")
        if 0 in image.shape:
            raise SegzeroError(Status.UNSUPPORTED_ENCODING, "the image has no pixels")
        return build_prompt(self.profile, validate_instruction(instruction, max_chars=self.max_instruction_chars))

    def run(
        self, image: Image, instruction: str, *, cancel: Cancel, timeout: float | None, on_event: OnEvent
    ) -> Thought:
        """Emits Reasoning as text comes, and Boxes. timeout: seconds. Raises SegzeroError and what the model raises."""
        began = time.perf_counter()
        text = ""

        def on_text(_: int, piece: str) -> None:
            nonlocal text
            text += piece
            on_event(Reasoning(text, piece))

        stop = _Either(cancel, None if timeout is None else began + timeout)
        prompt = self.prompt(image, instruction)
        square = square_image(image, self.profile.square)
        prepared = time.perf_counter()
        generation = self.reasoner.generate([square], [prompt], on_text=on_text, cancel=stop)[0]
        timing = Timing(
            preprocess=prepared - began,
            first_token=generation.first_token,
            reason=time.perf_counter() - prepared,
        )
        if cancel.is_set():
            raise SegzeroError(Status.CANCELLED, "the request was cancelled")
        if generation.cancelled:
            raise SegzeroError(Status.TIMEOUT, f"there was no answer within {timeout:g} s")
        thought = self.read(image, generation, timing)
        if thought.candidates:
            on_event(Boxes(thought.candidates))
        return thought

    def read(self, image: Image, generation: Generation, timing: Timing) -> Thought:
        """A generated text, read and mapped to source pixels."""
        height, width = image.shape[:2]
        answer = parse_answer(generation.text, self.profile, strict=self.strict, truncated=generation.truncated)
        found = answer.candidates if answer.status is Status.OK else ()
        return Thought(
            answer,
            tuple(to_source(c, self.profile, height, width) for c in found),
            replace(timing, prompt_tokens=generation.prompt_tokens, completion_tokens=generation.completion_tokens),
            generation.text,
        )


class SegmentingStep:
    """Candidates in source pixels to instances with masks. Keeps the features of the last image."""

    def __init__(self, segmenter: Segmenter, profile: Profile) -> None:
        self.segmenter, self.profile = segmenter, profile
        self._encoded: tuple[str, object] | None = None

    def run(
        self,
        image: Image,
        candidates: tuple[Candidate, ...],
        instruction: str,
        *,
        on_event: OnEvent,
        cancel: Cancel | None = None,
    ) -> tuple[tuple[Instance, ...], Timing]:
        """Emits Masks. An instance without a label is labelled by the instruction. Raises what the model raises."""
        height, width = image.shape[:2]
        began = time.perf_counter()
        prompts = [self._prompts(c, height, width) for c in candidates]
        boxes, points = [b for b, _ in prompts], [p for _, p in prompts]
        found = self.segmenter.segment(self._features(image), boxes, points, cancel=cancel)
        packing, instances = 0.0, []
        for index, (c, (mask, score)) in enumerate(zip(candidates, found, strict=True), 1):
            made = time.perf_counter()
            packed = pack(mask)  # before the next one is made: whole masks of many objects would fill the memory
            x1, y1, x2, y2 = map(float, packed.box)
            box = (x1, y1, x2, y2) if packed.area else c.box or (0.0, 0.0, 0.0, 0.0)
            instances.append(Instance(index, c.label or instruction, score, packed, box, c.box, c.points, packed.area))
            packing += time.perf_counter() - made
        on_event(Masks(tuple(instances)))
        return tuple(instances), Timing(segment=time.perf_counter() - began - packing, postprocess=packing)

    def forget(self) -> None:
        """Drops what was kept in case the same image comes again."""
        self._encoded = None

    def _features(self, image: Image) -> object:
        key = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).hexdigest() + str(image.shape)
        if self._encoded is None or self._encoded[0] != key:
            self._encoded = None  # room for the new ones first
            self._encoded = (key, self.segmenter.encode(image))
        return self._encoded[1]

    def _prompts(self, c: Candidate, height: int, width: int) -> tuple[Box | None, tuple[Point, ...]]:
        """What SAM is given: by the profile, and what there is when that is missing."""
        points = tuple(clip_point(p, height, width) for p in c.points)
        if self.profile.sam_prompts == "box" and c.box is not None:
            return c.box, ()
        if self.profile.sam_prompts == "points" and points:
            return None, points
        return c.box, points


class _Either(Cancel):
    """Set when the caller's flag is set or the deadline (time.perf_counter() seconds) is over."""

    def __init__(self, other: Cancel, deadline: float | None) -> None:
        super().__init__()
        self._other, self._deadline = other, deadline

    def is_set(self) -> bool:
        late = self._deadline is not None and time.perf_counter() > self._deadline
        return late or super().is_set() or self._other.is_set()
