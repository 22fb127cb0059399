"""The step behind both others: the reasoner is asked again, and how well it agrees is each object's confidence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from segzero_ros.core.confidence import Verification, agreement, drop_unsure
from segzero_ros.core.contract import (
    Event,
    Generation,
    Image,
    Instance,
    PackedMask,
    Sampling,
    Segmentation,
    Status,
)
from segzero_ros.core.geometry import square_image
from segzero_ros.core.steps import Deadline, Progress, ReasoningStep, SegmentingStep, Thought

BATCH = 8  # texts at once: the memory of a small GPU
TEMPERATURE, TOP_P = 1.0, 0.9  # as StAR published
RESERVE = 0.1  # share of a request's time that is left for what follows


class VerifyingStep:
    """Asks again what was answered. Which pixels an answer has never changes; objects may be taken out of it.

    settings: of the next request on.
    """

    def __init__(self, reasoning: ReasoningStep, segmenting: SegmentingStep) -> None:
        self._reasoning, self._segmenting = reasoning, segmenting
        self.settings = Verification()

    def run(
        self, image: Image, instruction: str, result: Segmentation, *, stop: Deadline, progress: Progress
    ) -> Segmentation:
        """The answer with the confidence of its objects, and without those that have too little.

        Time is counted into `reason` and `segment`. Raises SegzeroError, with TIMEOUT a little before the request's
        time is over, and what the models raise.
        """
        if self.settings.way == "off" or not result.instances:
            return result
        again = Again(self._reasoning, self._segmenting, image, instruction, stop.sooner(RESERVE), progress)
        instances, said = again.vote(result.instances, self.settings.samples)
        message = "; ".join([result.message, *said])
        result = replace(result, message=message, instances=instances)
        return drop_unsure(result, self.settings.min_confidence)


class Again:
    """One question, asked again."""

    def __init__(
        self,
        reasoning: ReasoningStep,
        segmenting: SegmentingStep,
        image: Image,
        instruction: str,
        stop: Deadline,
        progress: Progress,
    ) -> None:
        self._reasoning, self._segmenting = reasoning, segmenting
        self._image, self._instruction, self._stop, self._progress = image, instruction, stop, progress

    def vote(self, instances: Sequence[Instance], samples: int) -> tuple[tuple[Instance, ...], list[str]]:
        """How well the seeded samples agree on each object. What cannot be read has no vote; half must be read."""
        thoughts = [t for t in self.sample(samples) if t.answer.status is not Status.PARSE_ERROR]
        if 2 * len(thoughts) < samples:  # few voices would agree by chance
            said = f"the confidence is not known: only {len(thoughts)} of {samples} samples could be read"
            return tuple(instances), [said]
        masks = self.masks(thoughts)
        return tuple(replace(i, confidence=agreement(i.packed, masks)) for i in instances), []

    def sample(self, samples: int) -> list[Thought]:
        """Random answers, the same ones for the same question; some may not be readable."""
        square = square_image(self._image, self._reasoning.profile.square)
        prompt = self._reasoning.prompt(self._image, self._instruction)
        texts: list[Generation] = []
        for start in range(0, samples, BATCH):
            count = min(BATCH, samples - start)
            texts += self._ask([square] * count, [prompt] * count, Sampling(TEMPERATURE, TOP_P, seed=start))
        return [self._reasoning.read(self._image, text, Progress()) for text in texts]

    def masks(self, thoughts: Sequence[Thought]) -> list[list[PackedMask]]:
        """Of each answer its masks, on the features of the whole image. What is named twice is segmented once."""
        named = tuple(dict.fromkeys(replace(c, label="") for t in thoughts for c in t.candidates))
        progress = Progress()
        found: Sequence[Instance] = ()
        try:
            if named:
                given = {"on_event": _nothing, "stop": self._stop, "progress": progress}
                found = self._segmenting.run(self._image, named, self._instruction, **given)  # type: ignore[arg-type]
        finally:
            before, spent = self._progress.timing, progress.timing
            self._progress.note(
                segment=before.segment + spent.segment, postprocess=before.postprocess + spent.postprocess
            )
        packed = {c: i.packed for c, i in zip(named, found, strict=True)}
        return [[packed[replace(c, label="")] for c in t.candidates] for t in thoughts]

    def _limits(self) -> dict[str, Any]:
        """Those of the answer without its seconds: several texts at once take longer, as does a busy machine."""
        budget = self._reasoning.thought_budget
        if budget is None or not budget.seconds:
            return self._reasoning.limits()
        return {} if budget.tokens is None else {"thought_budget": replace(budget, seconds=None)}

    def _ask(self, squares: list[Image], prompts: list[str], sampling: Sampling) -> list[Generation]:
        began = time.perf_counter()
        try:
            given = {"cancel": self._stop, "sampling": sampling, **self._limits()}
            texts = self._reasoning.reasoner.generate(squares, prompts, **given)
        finally:
            self._progress.note(reason=self._progress.timing.reason + time.perf_counter() - began)
        if self._stop.is_set() or any(t.cancelled for t in texts):
            raise self._stop.error()
        return texts


def _nothing(event: Event) -> None:
    """Nobody listens: these masks are no answer."""
