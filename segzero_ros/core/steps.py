"""The two steps of an answer: reasoning (image and words to boxes and points) and segmenting (those to masks).

Each owns one model and neither knows the other, so that two threads can run them; the whole `Boxes` pass between.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
    LoadedModel,
    Mask,
    Masks,
    Point,
    Reasoner,
    Reasoning,
    Segmenter,
    SegzeroError,
    Status,
    Stopped,
    ThoughtBudget,
    Timing,
    WithLogits,
    timed_out,
)
from segzero_ros.core.geometry import clip_point, pack, square_image, to_source
from segzero_ros.core.partial import PartialAnswer
from segzero_ros.core.profiles import Profile
from segzero_ros.core.prompt import MAX_CHARS, build_prompt, validate_instruction
from segzero_ros.core.published import place, read_published

OnEvent = Callable[[Event], None]
MAX_NAMED = 5  # empty masks in a message


class Deadline(Cancel):
    """Set when the caller's flag is set or the time is over. timeout: seconds from now, or None."""

    def __init__(self, caller: Cancel | None, timeout: float | None) -> None:
        super().__init__()
        self._caller, self._timeout = caller, timeout
        self._end = None if timeout is None else time.perf_counter() + timeout

    def is_set(self) -> bool:
        late = self._end is not None and time.perf_counter() > self._end
        return late or super().is_set() or (self._caller is not None and self._caller.is_set())

    def sooner(self, share: float) -> Deadline:
        """For work that others follow: it ends before this one, by a share of the whole time."""
        if self._timeout is None or self._end is None:
            return Deadline(self._caller, None)
        return Deadline(self._caller, self._end - time.perf_counter() - share * self._timeout)

    def error(self) -> SegzeroError:
        """Why it is set: the caller's flag counts more than the time."""
        if super().is_set() or (self._caller is not None and self._caller.is_set()):
            return SegzeroError(Status.CANCELLED, "the request was cancelled")
        return timed_out(self._timeout or 0.0)


@dataclass
class Progress:
    """How far a request has come, also when it fails. text: what the model has written."""

    text: str = ""
    timing: Timing = field(default_factory=Timing)

    def note(self, **seconds: float) -> None:
        """Times of stages, by the names of Timing's fields."""
        self.timing = replace(self.timing, **seconds)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Thought:
    """What the reasoning step found. candidates: in source pixels; empty unless answer.status is OK.

    text: all that the model wrote. ended: its thought was ended, and not by the model.
    """

    answer: Answer
    candidates: tuple[Candidate, ...]
    text: str
    ended: bool


def check_image(image: Image) -> None:
    """Raises SegzeroError(UNSUPPORTED_ENCODING) for what is no image."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise SegzeroError(Status.UNSUPPORTED_ENCODING, "an image is a uint8 array (height, width, 3), RGB")
    if 0 in image.shape:
        raise SegzeroError(Status.UNSUPPORTED_ENCODING, "the image has no pixels")


class NoReasoner:
    """In the place of a Reasoner where only prompts are asked: words are refused in words."""

    info = LoadedModel("no reasoner", "", 0, "none", "none", 0)

    def generate(self, squares: list[Image], prompts: list[str], **_: object) -> list[Generation]:
        sentence = "no reasoning model is loaded, so an instruction cannot be answered; give a box or a point"
        raise SegzeroError(Status.BAD_REQUEST, sentence)


class ReasoningStep:
    """Image and instruction to candidates.

    script: a name of published.SCRIPTS, whose way of reading is taken, with the instruction as it is; "": the node's.
    thought_budget: of the next request on; None: a thought may be as long as the token limit lets it.
    """

    def __init__(self, reasoner: Reasoner, profile: Profile) -> None:
        self.reasoner, self.profile = reasoner, profile
        self.max_instruction_chars = MAX_CHARS
        self.script = ""
        self.thought_budget: ThoughtBudget | None = None

    def prompt(self, image: Image, instruction: str) -> str:
        """The model's words for an instruction. Raises SegzeroError for an image or an instruction that is none."""
        check_image(image)
        if not self.script:
            instruction = validate_instruction(instruction, max_chars=self.max_instruction_chars)
        elif len(instruction) > self.max_instruction_chars:
            said = f"the instruction has {len(instruction)} characters; {self.max_instruction_chars} are taken"
            raise SegzeroError(Status.BAD_INSTRUCTION, said)
        return build_prompt(self.profile, instruction)

    def limits(self) -> dict[str, Any]:
        """What a reasoner is given where it is wished: one that knows no budget is asked for none."""
        return {} if self.thought_budget is None else {"thought_budget": self.thought_budget}

    def run(self, image: Image, instruction: str, *, stop: Deadline, progress: Progress, on_event: OnEvent) -> Thought:
        """Emits Reasoning as text comes, Boxes as each is complete, and in the end the whole Boxes.

        Raises SegzeroError and what the model raises.
        """
        began = time.perf_counter()
        partial = None if self.script else PartialAnswer(self.profile)

        def on_text(_: int, piece: str) -> None:
            if not progress.text:
                progress.note(first_token=time.perf_counter() - prepared)
            progress.text += piece
            on_event(Reasoning(progress.text, piece))
            found = None if partial is None else partial.read(progress.text)
            if found:
                on_event(Boxes(tuple(to_source(c, self.profile, *image.shape[:2]) for c in found), whole=False))

        prompt = self.prompt(image, instruction)
        square = square_image(image, self.profile.square)
        prepared = time.perf_counter()
        progress.note(preprocess=prepared - began)
        try:
            given = {"on_text": on_text, "cancel": stop, **self.limits()}
            generation = self.reasoner.generate([square], [prompt], **given)[0]
        finally:
            progress.note(reason=time.perf_counter() - prepared)
        if generation.cancelled or stop.is_set():
            raise stop.error()
        progress.note(first_token=generation.first_token)
        thought = self.read(image, generation, progress)
        if thought.candidates:
            on_event(Boxes(thought.candidates))
        return thought

    def read(self, image: Image, generation: Generation, progress: Progress) -> Thought:
        """A generated text, read and mapped to source pixels."""
        height, width = image.shape[:2]
        progress.note(prompt_tokens=generation.prompt_tokens, completion_tokens=generation.completion_tokens)
        if self.script:
            answer = read_published(generation.text, self.script)
            candidates = tuple(place(answer.candidates, self.script, self.profile, height, width))
        else:
            answer = parse_answer(generation.text, self.profile, truncated=generation.truncated)
            found = answer.candidates if answer.status is Status.OK else ()
            candidates = tuple(to_source(c, self.profile, height, width) for c in found)
        return Thought(answer, candidates, generation.text, generation.thought_ended)


class SegmentingStep:
    """Candidates in source pixels to instances with masks. Keeps the features of the last image.

    published: as the published scripts, points outside the image stay there, and without points there is no mask;
    otherwise points are moved to the image's edge, and a box alone is enough.
    """

    def __init__(self, segmenter: Segmenter, profile: Profile) -> None:
        self.segmenter, self.profile = segmenter, profile
        self.published = False
        self._encoded: tuple[str, object] | None = None

    def run(
        self,
        image: Image,
        candidates: tuple[Candidate, ...],
        instruction: str,
        *,
        on_event: OnEvent,
        stop: Deadline | None = None,
        progress: Progress | None = None,
    ) -> tuple[Instance, ...]:
        """Emits Masks. An instance without a label is labelled by the instruction. Raises what the model raises."""
        height, width = image.shape[:2]
        prompts = [self._prompts(c, height, width) for c in candidates]
        boxes, points = [b for b, _ in prompts], [p for _, p in prompts]
        named = [c if c.label else replace(c, label=instruction) for c in candidates]
        segment = self.segmenter.segment
        stop = stop or Deadline(None, None)

        def masks(features: object) -> Sequence[tuple[Mask, float]]:
            if self.published and not all(c.points for c in candidates):
                return [(np.zeros((height, width), np.bool_), 0.0)] * len(candidates)
            return segment(features, boxes, points, cancel=stop)

        instances = self._instances(image, named, masks, stop, progress or Progress())
        on_event(Masks(instances))
        return instances

    def point(
        self, image: Image, candidates: Sequence[Candidate], *, stop: Deadline, progress: Progress
    ) -> tuple[Instance, ...]:
        """As `run`, for what was pointed at: all of a candidate's prompts count. Emits nothing."""
        segment = self.segmenter.segment_pointed
        return self._instances(image, candidates, lambda f: segment(f, candidates, cancel=stop), stop, progress)

    def _instances(
        self,
        image: Image,
        candidates: Sequence[Candidate],
        segment: Callable[[object], Sequence[tuple[Mask, float]]],
        stop: Deadline,
        progress: Progress,
    ) -> tuple[Instance, ...]:
        """segment: features to a mask and a score for each candidate."""
        began = time.perf_counter()
        packing = 0.0
        instances = []
        try:
            found = segment(self._features(image, stop))
            for n, (c, (mask, score)) in enumerate(zip(candidates, found, strict=True)):
                made = time.perf_counter()
                packed = pack(mask)  # before the next one is made: whole masks of many objects would fill the memory
                x1, y1, x2, y2 = map(float, packed.box)
                instances.append(
                    Instance(
                        index=n + 1,
                        label=c.label,
                        score=score,
                        packed=packed,
                        box=(x1, y1, x2, y2) if packed.area else c.box or (0.0, 0.0, 0.0, 0.0),
                        prompt_box=c.box,
                        prompt_points=c.points,
                        area=packed.area,
                        negative_points=c.negative,
                        logits=found.logits(n) if isinstance(found, WithLogits) else None,
                    )
                )
                packing += time.perf_counter() - made
        except Stopped:
            raise stop.error() from None
        finally:
            progress.note(segment=time.perf_counter() - began - packing, postprocess=packing)
        return tuple(instances)

    def forget(self) -> None:
        """Drops what was kept in case the same image comes again."""
        self._encoded = None

    def _features(self, image: Image, stop: Deadline) -> object:
        key = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).hexdigest() + str(image.shape)
        if self._encoded is None or self._encoded[0] != key:
            self._encoded = None  # room for the new ones first
            self._encoded = (key, self.segmenter.encode(image, cancel=stop))
        return self._encoded[1]

    def _prompts(self, c: Candidate, height: int, width: int) -> tuple[Box | None, tuple[Point, ...]]:
        """What SAM is given: by the profile, and what there is when that is missing."""
        points = tuple(clip_point(p, height, width) for p in c.points) if not self.published else c.points
        if self.profile.sam_prompts == "box" and c.box is not None:
            return c.box, ()
        if self.profile.sam_prompts == "points" and points:
            return None, points
        return c.box, points


def name_empty_masks(instances: Sequence[Instance]) -> list[str]:
    """A sentence for each object of which the segmenter saw no pixel, and for the rest of many."""
    empty = [i for i in instances if not i.area]
    said = []
    for i in empty[:MAX_NAMED]:
        x1, y1, x2, y2 = i.prompt_box or i.box
        of = f" (its box is {x2 - x1:g} x {y2 - y1:g} pixels)" if i.prompt_box else ""
        said.append(f"object {i.index} has an empty mask{of}")
    return said + [f"{len(empty) - MAX_NAMED} more have empty masks"] * (len(empty) > MAX_NAMED)
