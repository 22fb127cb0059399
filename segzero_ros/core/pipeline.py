"""Image and instruction to masks: both steps in a row, as a call, as a stream of typed events, or as a batch."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from segzero_ros.core.contract import (
    Answer,
    Cancel,
    Done,
    Event,
    Image,
    Instance,
    Queued,
    Reasoner,
    Sampling,
    Segmentation,
    Segmenter,
    SegzeroError,
    Status,
)
from segzero_ros.core.failures import drop_frames, is_lost_device, is_out_of_memory, lost_device_sentence
from segzero_ros.core.geometry import square_image
from segzero_ros.core.profiles import Profile
from segzero_ros.core.steps import Deadline, OnEvent, Progress, ReasoningStep, SegmentingStep, Thought
from segzero_ros.core.text import first_line

log = logging.getLogger(__name__)
MAX_NAMED = 5  # empty masks in a message


def _nothing(event: Event) -> None:
    """Nobody listens."""


class Pipeline:
    """Owns a reasoner and a segmenter; one request at a time. Failures are typed statuses, never exceptions."""

    def __init__(self, reasoner: Reasoner, segmenter: Segmenter, profile: Profile) -> None:
        self.reasoner, self.segmenter, self.profile = reasoner, segmenter, profile
        self.reasoning = ReasoningStep(reasoner, profile)
        self.segmenting = SegmentingStep(segmenter, profile)
        self.lost = ""  # why these models will never answer again; empty while they can

    @property
    def model(self) -> str:
        return f"{self.reasoner.info.full_name} + {self.segmenter.info.full_name}"

    @property
    def strict(self) -> bool:
        """Whether answers are read as the published scripts read them: for evaluation."""
        return self.reasoning.strict

    @strict.setter
    def strict(self, value: bool) -> None:
        self.reasoning.strict = value

    @property
    def max_instruction_chars(self) -> int:
        return self.reasoning.max_instruction_chars

    @max_instruction_chars.setter
    def max_instruction_chars(self, value: int) -> None:
        self.reasoning.max_instruction_chars = value

    def segment(
        self,
        image: Image,
        instruction: str,
        *,
        cancel: Cancel | None = None,
        timeout: float | None = None,
        on_event: OnEvent = _nothing,
    ) -> Segmentation:
        """image: uint8 (H, W, 3) RGB; timeout in seconds for the whole request.

        on_event is called from this thread with each event but Queued and Done.
        """
        began = time.perf_counter()
        progress = Progress()
        stop = Deadline(cancel, timeout)
        try:
            thought = self.reasoning.run(image, instruction, stop=stop, progress=progress, on_event=on_event)
            result = self._finish(image, instruction, thought, stop, progress, on_event)
        except Exception as error:
            result = replace(self._failed(error, instruction, image), reasoning=progress.text, text=progress.text)
        total = time.perf_counter() - began
        return replace(result, timing=replace(progress.timing, total=total))

    def stream(
        self, image: Image, instruction: str, *, cancel: Cancel | None = None, timeout: float | None = None
    ) -> Iterator[Event]:
        """The events of a request as they happen, the last one Done. Closing the iterator cancels the request."""
        flag = cancel or Cancel()
        events: queue.Queue[Event] = queue.Queue()

        def run() -> None:
            events.put(Done(self.segment(image, instruction, cancel=flag, timeout=timeout, on_event=events.put)))

        thread = threading.Thread(target=run, daemon=True)
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
                prompt = self.reasoning.prompt(image, instruction)
            except SegzeroError as error:
                out[i] = self._failed(error, instruction, image)
                continue
            good.append(i)
            squares.append(square_image(image, self.profile.square))
            prompts.append(prompt)
        if good:
            try:
                texts = self.reasoner.generate(squares, prompts, cancel=cancel, sampling=sampling)
            except Exception as error:
                for i in good:
                    out[i] = self._failed(error, instructions[i], images[i])
            else:
                seconds = time.perf_counter() - began
                for i, generation in zip(good, texts, strict=True):
                    progress = Progress(generation.text)
                    progress.note(reason=seconds, first_token=generation.first_token)
                    stop = Deadline(cancel, None)
                    try:
                        if generation.cancelled:
                            raise SegzeroError(Status.CANCELLED, "the request was cancelled")
                        thought = self.reasoning.read(images[i], generation, progress)
                        result = self._finish(images[i], instructions[i], thought, stop, progress, _nothing)
                    except Exception as error:
                        result = replace(self._failed(error, instructions[i], images[i]), text=generation.text)
                    out[i] = replace(result, timing=progress.timing)
        return [r for r in out if r is not None]

    def forget(self) -> None:
        """Drops what was kept in case the same image comes again."""
        self.segmenting.forget()

    def _failed(self, error: Exception, instruction: str, image: Image) -> Segmentation:
        height, width = (image.shape[:2]) if isinstance(image, np.ndarray) and image.ndim >= 2 else (0, 0)
        status, message = self._explain(error)
        return Segmentation(status, message, instruction, int(height), int(width), model=self.model)

    def _explain(self, error: Exception) -> tuple[Status, str]:
        """Its status and sentence. The tensors of the calls that failed are let go."""
        if isinstance(error, SegzeroError):
            return error.status, error.message
        log.debug("a request failed", exc_info=error)
        drop_frames(error)
        if is_out_of_memory(error):
            return Status.OUT_OF_MEMORY, "there is not enough memory for this request"
        if is_lost_device(error):
            self.lost = lost_device_sentence(error)
            return Status.BACKEND_ERROR, self.lost
        return Status.BACKEND_ERROR, f"a model failed: {type(error).__name__}: {first_line(error)}"

    def _finish(
        self,
        image: Image,
        instruction: str,
        thought: Thought,
        stop: Deadline,
        progress: Progress,
        on_event: OnEvent,
    ) -> Segmentation:
        height, width = image.shape[:2]
        result = Segmentation(
            thought.answer.status,
            _sentence(thought.answer),
            instruction,
            height,
            width,
            reasoning=thought.answer.reasoning,
            answer=thought.answer.answer,
            model=self.model,
            text=thought.text,
        )
        if thought.answer.status is not Status.OK:
            return result
        try:
            instances = self.segmenting.run(
                image, thought.candidates, instruction, stop=stop, progress=progress, on_event=on_event
            )
        except Exception as error:  # what was thought took most of the time, so it is kept
            status, message = self._explain(error)
            if status in (Status.OUT_OF_MEMORY, Status.BACKEND_ERROR):
                message += "; there are no masks, but the boxes are in the answer"
            return replace(result, status=status, message=message)
        message = "; ".join([result.message, *_empty_masks(instances)])
        return replace(result, message=message, instances=instances)


def _sentence(answer: Answer) -> str:
    if answer.status is Status.NO_OBJECT:
        return "nothing in the image matches"
    if answer.status is Status.PARSE_ERROR:
        return "the model's text holds no readable answer: " + "; ".join(answer.reasons)
    count = len(answer.candidates)
    found = f"{count} object{'s' if count > 1 else ''}"
    return found + ("; " + "; ".join(answer.reasons) if answer.reasons else "")


def _empty_masks(instances: Sequence[Instance]) -> list[str]:
    """A sentence for each object of which the segmenter saw no pixel, and for the rest of many."""
    empty = [i for i in instances if not i.area]
    said = []
    for i in empty[:MAX_NAMED]:
        x1, y1, x2, y2 = i.prompt_box or i.box
        of = f" (its box is {x2 - x1:g} x {y2 - y1:g} pixels)" if i.prompt_box else ""
        said.append(f"object {i.index} has an empty mask{of}")
    return said + [f"{len(empty) - MAX_NAMED} more have empty masks"] * (len(empty) > MAX_NAMED)
