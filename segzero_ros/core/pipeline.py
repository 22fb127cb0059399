"""Image and instruction to masks: the steps in order, as a call or as a stream of typed events."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from segzero_ros.core.answer import parse_answer
from segzero_ros.core.contract import (
    Answer,
    Boxes,
    Cancel,
    Candidate,
    Done,
    Event,
    Generation,
    Image,
    Instance,
    Masks,
    Queued,
    Reasoner,
    Reasoning,
    Sampling,
    Segmentation,
    Segmenter,
    SegzeroError,
    Status,
    Timing,
    is_out_of_memory,
)
from segzero_ros.core.geometry import clip_point, mask_box, square_image, to_source
from segzero_ros.core.profiles import Profile
from segzero_ros.core.prompt import MAX_CHARS, build_prompt, validate_instruction


class Pipeline:
    """Owns a reasoner and a segmenter; one request at a time. Failures are typed statuses, never exceptions.

    With `strict` set, answers are read as the published scripts read them: for evaluation.
    """

    def __init__(self, reasoner: Reasoner, segmenter: Segmenter, profile: Profile) -> None:
        self.reasoner, self.segmenter, self.profile = reasoner, segmenter, profile
        self.max_instruction_chars = MAX_CHARS
        self.strict = False
        self._encoded: tuple[str, object] | None = None

    @property
    def model(self) -> str:
        parts = (self.reasoner.info, self.segmenter.info)
        return " + ".join(f"{i.name}@{i.revision}" if i.revision else i.name for i in parts)

    def segment(
        self, image: Image, instruction: str, *, cancel: Cancel | None = None, timeout: float | None = None
    ) -> Segmentation:
        """image: uint8 (H, W, 3) RGB; timeout in seconds for the whole request."""
        return _run(self, image, instruction, cancel or Cancel(), timeout, lambda event: None)

    def stream(
        self, image: Image, instruction: str, *, cancel: Cancel | None = None, timeout: float | None = None
    ) -> Iterator[Event]:
        """The events of a request as they happen, the last one Done. Closing the iterator cancels the request."""
        flag = cancel or Cancel()
        events: queue.Queue[Event] = queue.Queue()
        thread = threading.Thread(
            target=lambda: events.put(Done(_run(self, image, instruction, flag, timeout, events.put))), daemon=True
        )
        yield Queued(instruction)
        thread.start()
        try:
            while True:
                event = events.get()
                yield event
                if isinstance(event, Done):
                    return
        finally:
            if thread.is_alive():
                flag.set()
            thread.join()

    def segment_batch(
        self,
        images: list[Image],
        instructions: list[str],
        *,
        cancel: Cancel | None = None,
        sampling: Sampling | None = None,
    ) -> list[Segmentation]:
        """Reasons over all at once and segments one after another. Batch size can change texts through padding.

        Greedy unless sampling is given.
        """
        if len(images) != len(instructions):
            raise ValueError(f"{len(images)} images and {len(instructions)} instructions")
        began = time.perf_counter()
        out: list[Segmentation | None] = [None] * len(images)
        good: list[int] = []
        squares, prompts = [], []
        for i, (image, instruction) in enumerate(zip(images, instructions, strict=True)):
            try:
                prompt = self._prompt(image, instruction)
            except SegzeroError as error:
                out[i] = self._failed(error.status, error.message, instruction, image)
                continue
            good.append(i)
            squares.append(square_image(image, self.profile.square))
            prompts.append(prompt)
        if good:
            try:
                texts = self.reasoner.generate(squares, prompts, cancel=cancel, sampling=sampling)
            except Exception as error:
                status, message = _explain(error)
                for i in good:
                    out[i] = self._failed(status, message, instructions[i], images[i])
            else:
                seconds = time.perf_counter() - began
                for i, generation in zip(good, texts, strict=True):
                    timing = Timing(reason=seconds, first_token=generation.first_token)
                    try:
                        if generation.cancelled:
                            raise SegzeroError(Status.CANCELLED, "the request was cancelled")
                        out[i] = self._finish(images[i], instructions[i], generation, timing, lambda e: None)
                    except Exception as error:
                        failed = self._failed(*_explain(error), instructions[i], images[i])
                        out[i] = replace(failed, text=generation.text)
        return [r for r in out if r is not None]

    def forget(self) -> None:
        """Drops what was kept in case the same image comes again."""
        self._encoded = None

    def _prompt(self, image: Image, instruction: str) -> str:
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise SegzeroError(Status.UNSUPPORTED_ENCODING, "an image is a uint8 array (height, width, 3), RGB")
        if 0 in image.shape:
            raise SegzeroError(Status.UNSUPPORTED_ENCODING, "the image has no pixels")
        return build_prompt(self.profile, validate_instruction(instruction, max_chars=self.max_instruction_chars))

    def _failed(self, status: Status, message: str, instruction: str, image: Image) -> Segmentation:
        height, width = (image.shape[:2]) if isinstance(image, np.ndarray) and image.ndim >= 2 else (0, 0)
        return Segmentation(status, message, instruction, int(height), int(width), model=self.model)

    def _features(self, image: Image) -> object:
        key = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).hexdigest() + str(image.shape)
        if self._encoded is None or self._encoded[0] != key:
            self._encoded = None  # room for the new ones first
            self._encoded = (key, self.segmenter.encode(image))
        return self._encoded[1]

    def _finish(self, image: Image, instruction: str, generation: Generation, timing: Timing, emit) -> Segmentation:  # type: ignore[no-untyped-def]
        """From a text to masks."""
        height, width = image.shape[:2]
        read = parse_answer(generation.text, self.profile, strict=self.strict, truncated=generation.truncated)
        timing = replace(timing, prompt_tokens=generation.prompt_tokens, completion_tokens=generation.completion_tokens)
        result = Segmentation(
            read.status,
            _sentence(read),
            instruction,
            height,
            width,
            reasoning=read.reasoning,
            answer=read.answer,
            timing=timing,
            model=self.model,
            text=generation.text,
        )
        if read.status is not Status.OK:
            return result
        candidates = tuple(to_source(c, self.profile, height, width) for c in read.candidates)
        emit(Boxes(candidates))
        began = time.perf_counter()
        prompts = [self._prompts(c, height, width) for c in candidates]
        found = self.segmenter.segment(self._features(image), [b for b, _ in prompts], [p for _, p in prompts])
        timing = replace(timing, segment=time.perf_counter() - began)
        began = time.perf_counter()
        instances = []
        for index, (c, (mask, score)) in enumerate(zip(candidates, found, strict=True), 1):
            box = mask_box(mask) or c.box or (0.0, 0.0, 0.0, 0.0)
            area = int(np.count_nonzero(mask))
            instances.append(Instance(index, c.label or instruction, score, mask, box, c.box, c.points, area))
        emit(Masks(tuple(instances)))
        timing = replace(timing, postprocess=time.perf_counter() - began)
        return replace(result, instances=tuple(instances), timing=timing)

    def _prompts(self, c: Candidate, height: int, width: int):  # type: ignore[no-untyped-def]
        """What SAM is given: by the profile, and what there is when that is missing."""
        points = tuple(clip_point(p, height, width) for p in c.points)
        if self.profile.sam_prompts == "box" and c.box is not None:
            return c.box, ()
        if self.profile.sam_prompts == "points" and points:
            return None, points
        return c.box, points


def _run(
    pipeline: Pipeline, image: Image, instruction: str, cancel: Cancel, timeout: float | None, emit
) -> Segmentation:  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    text = ""

    def on_text(_: int, piece: str) -> None:
        nonlocal text
        text += piece
        emit(Reasoning(text, piece))

    stop = _Either(cancel, None if timeout is None else began + timeout)
    try:
        prompt = pipeline._prompt(image, instruction)
        square = square_image(image, pipeline.profile.square)
        prepared = time.perf_counter()
        generation = pipeline.reasoner.generate([square], [prompt], on_text=on_text, cancel=stop)[0]
        reasoned = time.perf_counter()
        timing = Timing(preprocess=prepared - began, first_token=generation.first_token, reason=reasoned - prepared)
        if cancel.is_set():
            raise SegzeroError(Status.CANCELLED, "the request was cancelled")
        if generation.cancelled:
            raise SegzeroError(Status.TIMEOUT, f"there was no answer within {timeout:g} s")
        result = pipeline._finish(image, instruction, generation, timing, emit)
    except Exception as error:
        status, message = _explain(error)
        result = replace(pipeline._failed(status, message, instruction, image), reasoning=text)
    return replace(result, timing=replace(result.timing, total=time.perf_counter() - began))


class _Either(Cancel):
    """Set when the caller's flag is set or the deadline (time.perf_counter() seconds) is over."""

    def __init__(self, other: Cancel, deadline: float | None) -> None:
        super().__init__()
        self._other, self._deadline = other, deadline

    def is_set(self) -> bool:
        late = self._deadline is not None and time.perf_counter() > self._deadline
        return late or super().is_set() or self._other.is_set()


def _sentence(answer: Answer) -> str:
    if answer.status is Status.NO_OBJECT:
        return "nothing in the image matches"
    if answer.status is Status.PARSE_ERROR:
        return "the model's text holds no readable answer: " + "; ".join(answer.reasons)
    count = len(answer.candidates)
    found = f"{count} object{'s' if count > 1 else ''}"
    return found + ("; " + "; ".join(answer.reasons) if answer.reasons else "")


def _explain(error: Exception) -> tuple[Status, str]:
    if isinstance(error, SegzeroError):
        return error.status, error.message
    name = type(error).__name__
    if is_out_of_memory(error):
        return Status.OUT_OF_MEMORY, "there is not enough memory for this request"
    return Status.BACKEND_ERROR, f"a model failed: {name}: {(str(error).splitlines() or [''])[0][:300]}"
