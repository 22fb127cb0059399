"""Image and instruction to masks: the steps in a row, as a call, as a stream of typed events, or as a batch.

Prompts that are not words take the second step alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from segzero_ros.core.confidence import leave_unverified
from segzero_ros.core.contract import (
    Answer,
    Cancel,
    Event,
    Image,
    Prompt,
    Reasoner,
    Sampling,
    Segmentation,
    Segmenter,
    SegzeroError,
    Status,
)
from segzero_ros.core.failures import drop_frames, is_lost_device, is_out_of_memory, lost_device_sentence
from segzero_ros.core.geometry import square_image
from segzero_ros.core.pointing import answer_prompts
from segzero_ros.core.profiles import Profile
from segzero_ros.core.prompt import validate_instruction
from segzero_ros.core.steps import Deadline, OnEvent, Progress, ReasoningStep, SegmentingStep, Thought, name_empty_masks
from segzero_ros.core.streaming import stream_events
from segzero_ros.core.text import first_line
from segzero_ros.core.verifying import VerifyingStep

log = logging.getLogger(__name__)


def _nothing(event: Event) -> None:
    """Nobody listens."""


class Pipeline:
    """Owns a reasoner and a segmenter; one request at a time. Failures are typed statuses, never exceptions."""

    def __init__(self, reasoner: Reasoner, segmenter: Segmenter, profile: Profile) -> None:
        self.reasoner, self.segmenter, self.profile = reasoner, segmenter, profile
        self.reasoning = ReasoningStep(reasoner, profile)
        self.segmenting = SegmentingStep(segmenter, profile)
        self.verifying = VerifyingStep(self.reasoning, self.segmenting)
        self.lost = ""  # why these models will never answer again; empty while they can

    @property
    def model(self) -> str:
        return f"{self.reasoner.info.full_name} + {self.segmenter.info.full_name}"

    @property
    def script(self) -> str:
        """The script of published.SCRIPTS as which words, answers and points are taken, for evaluation; "": none."""
        return self.reasoning.script

    @script.setter
    def script(self, name: str) -> None:
        self.reasoning.script = name
        self.segmenting.published = bool(name)

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
        """image: uint8 (H, W, 3) RGB; timeout in seconds for the whole request, asking again by `verifying` included.

        on_event is called from this thread with each event but Queued and Done.
        """

        def answer(stop: Deadline, progress: Progress) -> Segmentation:
            thought = self.reasoning.run(image, instruction, stop=stop, progress=progress, on_event=on_event)
            return self._finish(image, instruction, thought, stop, progress, on_event)

        return self._answered(image, instruction, Deadline(cancel, timeout), answer)

    def segment_prompts(
        self,
        image: Image,
        prompts: Sequence[Prompt],
        label: str = "",
        *,
        earlier: Segmentation | None = None,
        cancel: Cancel | None = None,
        timeout: float | None = None,
        on_event: OnEvent = _nothing,
    ) -> Segmentation:
        """Boxes and points instead of words, without the reasoner. image, timeout, on_event: as for `segment`.

        Instances are numbered in the order of the prompts and named by the label, or "object". Where prompts correct
        instances of `earlier`, the answer to the same image, the result is all of that answer with those replaced and
        new ones behind them. A prompt that is none is BAD_REQUEST, with its number, and nothing is segmented.
        """

        def answer(stop: Deadline, progress: Progress) -> Segmentation:
            words = validate_instruction(label, max_chars=self.max_instruction_chars) if label else ""
            return answer_prompts(self.segmenting, image, prompts, words, earlier, stop, progress, on_event)

        result = self._answered(image, label, Deadline(cancel, timeout), answer)
        return result if result.instances else replace(result, model=self.segmenter.info.full_name)

    def stream(
        self, image: Image, instruction: str, *, cancel: Cancel | None = None, timeout: float | None = None
    ) -> Iterator[Event]:
        """The events of a request as they happen, the last one Done. Closing the iterator cancels the request."""
        flag = cancel or Cancel()
        return stream_events(
            instruction,
            flag,
            lambda tell: self.segment(image, instruction, cancel=flag, timeout=timeout, on_event=tell),
        )

    def segment_batch(
        self,
        images: list[Image],
        instructions: list[str],
        *,
        cancel: Cancel | None = None,
        sampling: Sampling | None = None,
    ) -> list[Segmentation]:
        """Reasons over all at once and segments one after another. Batch size can change texts through padding.

        Each answer is asked again by `verifying`. Greedy unless sampling is given.
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
                given = {"cancel": cancel, "sampling": sampling, **self.reasoning.limits()}
                texts = self.reasoner.generate(squares, prompts, **given)
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

    def _answered(
        self, image: Image, instruction: str, stop: Deadline, answer: Callable[[Deadline, Progress], Segmentation]
    ) -> Segmentation:
        """An answer with its times; what goes wrong is its status."""
        began = time.perf_counter()
        progress = Progress()
        try:
            result = answer(stop, progress)
        except Exception as error:
            result = replace(self._failed(error, instruction, image), reasoning=progress.text, text=progress.text)
        return replace(result, timing=replace(progress.timing, total=time.perf_counter() - began))

    def _failed(self, error: Exception, instruction: str, image: Image) -> Segmentation:
        height, width = (image.shape[:2]) if isinstance(image, np.ndarray) and image.ndim >= 2 else (0, 0)
        status, message = self._explain(error)
        return Segmentation(status, message, instruction, int(height), int(width), model=self.model)

    def _explain(self, error: Exception) -> tuple[Status, str]:
        if is_lost_device(error) and not isinstance(error, SegzeroError):
            self.lost = lost_device_sentence(error)
        return _explain(error)

    def _finish(
        self,
        image: Image,
        instruction: str,
        thought: Thought,
        stop: Deadline,
        progress: Progress,
        on_event: OnEvent,
    ) -> Segmentation:
        result = _without_masks(image, instruction, thought, self.model)
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
        message = "; ".join([result.message, *name_empty_masks(instances)])
        return self._verified(image, instruction, replace(result, message=message, instances=instances), stop, progress)

    def _verified(
        self, image: Image, instruction: str, result: Segmentation, stop: Deadline, progress: Progress
    ) -> Segmentation:
        """What fails here takes nobody the answer, unless it was cancelled or a confidence is demanded."""
        try:
            return self.verifying.run(image, instruction, result, stop=stop, progress=progress)
        except Exception as error:
            status, message = self._explain(error)
            if status is Status.CANCELLED:
                return replace(result, status=status, message=message, instances=())
            why = "there was no time left to ask again" if status is Status.TIMEOUT else message
            return leave_unverified(result, status, why, self.verifying.settings.min_confidence)


def _without_masks(image: Image, instruction: str, thought: Thought, model: str) -> Segmentation:
    """What the reasoning step says of an image, before it is segmented."""
    height, width = image.shape[:2]
    return Segmentation(
        thought.answer.status,
        _sentence(thought.answer) + "; its thought was ended before the model ended it" * thought.ended,
        instruction,
        height,
        width,
        reasoning=thought.answer.reasoning,
        answer=thought.answer.answer,
        model=model,
        text=thought.text,
    )


def _explain(error: Exception) -> tuple[Status, str]:
    """Its status and sentence. The tensors of the calls that failed are let go."""
    if isinstance(error, SegzeroError):
        return error.status, error.message
    log.debug("a request failed", exc_info=error)
    drop_frames(error)
    if is_out_of_memory(error):
        return Status.OUT_OF_MEMORY, "there is not enough memory for this request"
    if is_lost_device(error):
        return Status.BACKEND_ERROR, lost_device_sentence(error)
    return Status.BACKEND_ERROR, f"a model failed: {type(error).__name__}: {first_line(error)}"


def _sentence(answer: Answer) -> str:
    if answer.status is Status.NO_OBJECT:
        return "; ".join(["nothing in the image matches", *answer.reasons])
    if answer.status is Status.PARSE_ERROR:
        return "the model's text holds no readable answer: " + "; ".join(answer.reasons)
    count = len(answer.candidates)
    found = f"{count} object{'s' if count > 1 else ''}"
    return found + ("; " + "; ".join(answer.reasons) if answer.reasons else "")
