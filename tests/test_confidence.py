"""Answers that are asked again: numbers by properties, the step with a scripted reasoner and the embedded segmenter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PIL

from segzero_ros import cli
from segzero_ros.core.confidence import Verification, agreement, drop_unsure
from segzero_ros.core.contract import (
    Boxes,
    Cancel,
    Generation,
    Instance,
    LoadedModel,
    Masks,
    Sampling,
    Segmentation,
    Segmenter,
    SegzeroError,
    Status,
    ThoughtBudget,
)
from segzero_ros.core.geometry import label_image, pack
from segzero_ros.core.verifying import BATCH
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile

DEMO = load_profile("demo")
SIDE = 224  # the profile's square: a box in a text is a box in the image
IMAGE = np.full((SIDE, SIDE, 3), 90, np.uint8)
IMAGE[30:70, 30:70] = (200, 30, 30)
IMAGE[140:190, 130:200] = (30, 30, 200)
RED, BLUE, NONE = (30, 30, 70, 70), (130, 140, 200, 190), ()
boxes = st.tuples(*[st.integers(0, 20)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


def says(*boxes: Sequence[int]) -> str:
    objects = ", ".join(f'{{"bbox_2d": {list(b)}}}' for b in boxes if b)
    return f"<think>so</think><answer>[{objects}]</answer>"


class Scripted:
    """Answers the first question by `first`, samples and later questions by `again`, in turn."""

    info = LoadedModel("scripted", "", 0, "", "", 0)

    def __init__(self, first: str, again: Sequence[str | Exception]) -> None:
        self.first, self.again, self.calls = first, list(again), list[tuple[int, Sampling | None]]()
        self.squares: list[Any] = []
        self.budgets: list[ThoughtBudget | None] = []
        self.before: Callable[[], None] = lambda: None  # what happens while it is asked again

    def generate(self, squares: Any, prompts: Any, *, sampling: Any = None, cancel: Any = None, **more: Any) -> Any:
        self.calls.append((len(prompts), sampling))
        self.budgets.append(more.get("thought_budget"))
        self.squares += squares
        if len(self.calls) == 1:
            return [Generation(self.first, 1, 1, False, False, 0.0)]
        self.before()
        told = [self.again.pop(0) for _ in prompts]
        for text in told:
            if isinstance(text, Exception):
                raise text
        return [Generation(str(text), 1, 1, False, cancel.is_set(), 0.0) for text in told]


@pytest.fixture(scope="module")
def segmenter() -> Iterator[Segmenter]:
    yield Pipeline.load(load_profile("demo"), words=False, trial=False).segmenter


Ask = Callable[..., tuple[Segmentation, Scripted]]


@pytest.fixture
def ask(segmenter: Segmenter) -> Ask:
    def run(first: str, again: Sequence[str | Exception], way: str = "vote", least: float = 0.0, **more: Any) -> Any:
        reasoner = Scripted(first, again)
        pipeline = Pipeline(reasoner, segmenter, load_profile("demo"))
        pipeline.verifying.settings = Verification(way, max(1, len(again)), least)
        reasoner.before = more.pop("before", reasoner.before)
        return pipeline.segment(more.pop("image", IMAGE), "the block", **more), reasoner

    return run


def confidences(result: Segmentation) -> list[float | None]:
    return [None if i.confidence is None else round(i.confidence, 3) for i in result.instances]


# -- numbers


def mask(box: Sequence[int]) -> Any:
    whole = np.zeros((20, 20), bool)
    whole[box[1] : box[3], box[0] : box[2]] = True
    return pack(whole)


@given(boxes, st.lists(st.lists(boxes, max_size=3), max_size=6))
def test_agreement_is_the_mean_of_the_best_iou_in_each_sample(one: Any, samples: Any) -> None:
    found = agreement(mask(one), [[mask(b) for b in sample] for sample in samples])
    if not samples:
        assert found is None
        return
    assert found is not None and 0 <= found <= 1
    best = [max((iou_of(one, b) for b in sample), default=0.0) for sample in samples]
    assert found == pytest.approx(sum(best) / len(samples))


def iou_of(a: Any, b: Any) -> float:
    """Of boxes of whole pixels, counted pixel by pixel."""
    pixels = [{(x, y) for x in range(c[0], c[2]) for y in range(c[1], c[3])} for c in (a, b)]
    union = len(pixels[0] | pixels[1])
    return len(pixels[0] & pixels[1]) / union if union else 0.0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"way": "guess"}, "verify"),
        ({"way": "vote", "samples": 0}, "samples"),
        ({"way": "vote", "samples": 65}, "samples"),
        ({"way": "vote", "samples": 2.5}, "samples"),
        ({"way": "vote", "min_confidence": 1.5}, "min_confidence"),
        ({"way": "vote", "min_confidence": float("nan")}, "min_confidence"),
        ({"min_confidence": 0.5}, "verify must be vote"),
    ],
)
def test_settings_that_cannot_be_are_a_sentence(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Verification(**settings)


@given(st.lists(st.none() | st.floats(0, 1), max_size=9), st.floats(0, 1))
def test_what_is_unsure_goes_and_what_stays_is_numbered_as_in_its_label_image(sure: Any, least: float) -> None:
    instances = tuple(
        Instance(n, f"thing {n}", 0.9, mask((n, n, n + 2, n + 2)), (0, 0, 1, 1), None, (), 4, confidence=c)
        for n, c in enumerate(sure, 1)
    )
    whole = Segmentation(Status.OK, f"{len(sure)} objects", "things", 20, 20, instances)
    left = drop_unsure(whole, least)
    kept = [i for i in instances if not least or (i.confidence is not None and i.confidence >= least)]
    assert [replace(i, index=0) for i in left.instances] == [replace(i, index=0) for i in kept]
    assert [i.index for i in left.instances] == list(range(1, len(kept) + 1))
    labels = label_image([i.packed for i in left.instances], [i.score for i in left.instances], 20, 20)
    assert set(np.unique(labels)) <= {0, *(i.index for i in left.instances)}
    assert (left.status is Status.NO_OBJECT) == (not kept and bool(instances))
    assert all(f"object {i.index} (" in left.message for i in [i for i in instances if i not in kept][:5])
    assert len(left.message) < 1000


# -- vote


def test_a_confidence_is_how_far_the_samples_have_the_object_too(ask: Ask) -> None:
    again = [says(RED), says(RED, BLUE), says(BLUE), says(NONE)]
    result, reasoner = ask(says(RED, BLUE), again)
    assert result.status is Status.OK and confidences(result) == [0.5, 0.5]
    result, reasoner = ask(says(RED), [*again[:1] * 3, *again[2:]])
    assert confidences(result) == [0.6]
    assert [(n, s and (s.temperature, s.top_p)) for n, s in reasoner.calls] == [(1, None), (5, (1.0, 0.9))]


def test_a_sample_that_cannot_be_read_has_no_vote(ask: Ask) -> None:
    result, _ = ask(says(RED), ["I do not know", says(RED), says(NONE), "<answer>[{"])
    assert confidences(result) == [0.5]
    result, _ = ask(says(RED), [says(RED), *["I do not know"] * 2])
    assert confidences(result) == [None], "one voice of three says nothing"
    result, _ = ask(says(RED), ["I do not know"] * 3)
    assert result.status is Status.OK and confidences(result) == [None]
    assert "only 0 of 3 samples could be read" in result.message


@pytest.mark.parametrize(
    ("budget", "of_samples"),
    [
        (None, None),
        (ThoughtBudget(9), ThoughtBudget(9)),
        (ThoughtBudget(seconds=0), ThoughtBudget(seconds=0)),
        (ThoughtBudget(seconds=2), None),
        (ThoughtBudget(9, 2), ThoughtBudget(9)),
    ],
)
def test_a_confidence_does_not_hang_on_how_fast_the_machine_is(
    segmenter: Segmenter, budget: ThoughtBudget | None, of_samples: ThoughtBudget | None
) -> None:
    reasoner = Scripted(says(RED), [says(RED)])
    pipeline = Pipeline(reasoner, segmenter, DEMO)
    pipeline.verifying.settings = Verification("vote", 1)
    pipeline.reasoning.thought_budget = budget
    pipeline.segment(IMAGE, "the block")
    assert reasoner.budgets == [budget, of_samples]


def test_many_samples_are_asked_in_batches_that_do_not_repeat_each_other(ask: Ask) -> None:
    _, reasoner = ask(says(RED), [says(RED)] * (2 * BATCH + 1))
    assert [n for n, _ in reasoner.calls[1:]] == [BATCH, BATCH, 1]
    assert len({s.seed for _, s in reasoner.calls[1:] if s}) == 3


def test_asking_again_changes_no_pixel_and_no_word_of_the_answer(ask: Ask) -> None:
    plain, _ = ask(says(RED, BLUE), [], "off")
    result, _ = ask(says(RED, BLUE), [says(RED), says(NONE)])
    assert [i.packed for i in result.instances] == [i.packed for i in plain.instances]
    assert (result.text, result.answer, result.message) == (plain.text, plain.answer, plain.message)
    assert result.timing.completion_tokens == plain.timing.completion_tokens
    assert confidences(plain) == [None, None]


def test_nothing_found_is_not_asked_again(ask: Ask) -> None:
    result, reasoner = ask(says(NONE), [], "vote", 0.5)
    assert result.status is Status.NO_OBJECT and len(reasoner.calls) == 1


# -- a threshold


def test_an_answer_below_the_threshold_is_no_object_with_the_reason(ask: Ask) -> None:
    result, _ = ask(says(RED), [says(RED), says(NONE), says(NONE), says(BLUE)], "vote", 0.5)
    assert result.status is Status.NO_OBJECT and not result.instances and result.answer
    assert result.message == "object 1 (the block) was found with confidence 0.25, below min_confidence 0.5"


def test_what_was_wrong_with_an_answer_is_said_where_a_threshold_leaves_nothing_of_it(ask: Ask) -> None:
    bare = says(RED).removesuffix("</answer>")
    for again, status in (([says(NONE)], Status.NO_OBJECT), ([MemoryError()], Status.OUT_OF_MEMORY)):
        result, _ = ask(bare, again, "vote", 0.5)
        assert result.status is status and result.message.endswith("; </answer> is missing")


def test_some_objects_below_the_threshold_are_left_out_and_named(ask: Ask) -> None:
    result, _ = ask(says(RED, BLUE), [says(BLUE), says(BLUE), says(RED, BLUE)], "vote", 0.5)
    (kept,) = result.instances
    assert result.status is Status.OK and kept.index == 1 and kept.prompt_box == BLUE and kept.confidence == 1
    assert "object 1 (the block) was found with confidence 0.33, below" in result.message
    assert result.message.endswith("1 of 2 stay, numbered anew from 1")


def test_an_object_of_which_no_confidence_is_known_does_not_pass_a_threshold(ask: Ask) -> None:
    result, _ = ask(says(RED), ["I do not know"] * 3, "vote", 0.1)
    assert result.status is Status.NO_OBJECT and not result.instances
    assert "its confidence is not known, and min_confidence is 0.1" in result.message
    assert result.message.count("only 0 of 3 samples could be read") == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), Status.OUT_OF_MEMORY),
        (RuntimeError("broken"), Status.BACKEND_ERROR),
        (SegzeroError(Status.BUSY, "the server is overloaded"), Status.BUSY),
        (SegzeroError(Status.TIMEOUT, "it took too long"), Status.TIMEOUT),
    ],
)
def test_a_failure_to_ask_again_does_not_pass_a_threshold(ask: Ask, error: Exception, status: Status) -> None:
    result, _ = ask(says(RED), [error], "vote", 0.1)
    assert result.status is status and not result.instances and result.answer
    assert "the confidence is not known, and min_confidence is 0.1: " in result.message


def test_a_batch_is_asked_again_too(segmenter: Segmenter) -> None:
    pipeline = Pipeline(Scripted(says(RED), [says(RED), says(NONE), says(NONE), says(NONE)]), segmenter, DEMO)
    pipeline.verifying.settings = Verification("vote", 4, 0.5)
    (result,) = pipeline.segment_batch([IMAGE], ["the block"])
    assert result.status is Status.NO_OBJECT and "confidence 0.25, below min_confidence 0.5" in result.message


@pytest.mark.parametrize(("sure", "least", "said"), [(0.4967, 0.5, "0.49"), (0.9999, 1.0, "0.99"), (0.29, 0.3, "0.29")])
def test_what_is_below_the_threshold_is_said_to_be_below_it(sure: float, least: float, said: str) -> None:
    one = Instance(1, "thing", 0.9, mask((0, 0, 2, 2)), (0, 0, 1, 1), None, (), 4, confidence=sure)
    left = drop_unsure(Segmentation(Status.OK, "1 object", "things", 20, 20, (one,)), least)
    assert f"confidence {said}, below" in left.message


# -- what goes wrong


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("the server is gone"), "the server is gone"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "GPU"),
    ],
)
def test_a_failure_takes_nobody_the_answer(ask: Ask, error: Exception, why: str) -> None:
    result, _ = ask(says(RED), [error])
    assert result.status is Status.OK and confidences(result) == [None]
    assert "the confidence is not known: " in result.message and why in result.message


def test_a_device_that_is_lost_while_asking_again_is_lost(segmenter: Segmenter) -> None:
    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    pipeline = Pipeline(Scripted(says(RED), [lost]), segmenter, load_profile("demo"))
    pipeline.verifying.settings = Verification("vote", 1)
    assert pipeline.segment(IMAGE, "the block").status is Status.OK and pipeline.lost


def test_a_request_is_cancelled_while_it_asks_again(ask: Ask) -> None:
    flag = Cancel()
    result, _ = ask(says(RED), [says(RED)], "vote", cancel=flag, before=flag.set)
    assert result.status is Status.CANCELLED and not result.instances


def test_time_that_is_over_while_asking_again_leaves_the_answer(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the time is left for what follows: at 91 of 100 seconds asking again has ended."""
    now = [0.0]
    monkeypatch.setattr("segzero_ros.core.steps.time.perf_counter", lambda: now[0])
    for late, known in ((89.0, True), (91.0, False)):
        now[0] = 0.0
        result, _ = ask(says(RED), [says(RED)], timeout=100, before=lambda late=late: now.__setitem__(0, late))
        assert result.status is Status.OK and (confidences(result) == [1]) == known
        assert ("there was no time left to ask again" in result.message) != known


def test_the_masks_are_told_before_the_answer_is_asked_again(segmenter: Segmenter) -> None:
    reasoner = Scripted(says(RED), [says(RED)])
    pipeline = Pipeline(reasoner, segmenter, load_profile("demo"))
    pipeline.verifying.settings = Verification("vote", 1)
    told = []
    result = pipeline.segment(IMAGE, "the block", on_event=lambda event: told.append((event, len(reasoner.calls))))
    assert [(type(event), calls) for event, calls in told] == [(Boxes, 1), (Masks, 1)]
    assert len(reasoner.calls) == 2 and confidences(result) == [1]


# -- the command


def test_the_command_says_how_sure_it_is(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    PIL.fromarray(IMAGE).save(tmp_path / "blocks.png")
    again = [says(RED), says(RED, BLUE), says(RED), says(NONE)]

    def segment(*options: str) -> str:
        scripted = Pipeline(Scripted(says(RED, BLUE), again), segmenter, load_profile("demo"))
        monkeypatch.setattr(Pipeline, "load", lambda *_, **__: scripted)
        words = ["segment", str(tmp_path / "blocks.png"), "the block", "--verify", "vote", "--verify-samples", "4"]
        assert cli.main([*words, *options]) == 0
        return capsys.readouterr().out

    assert [line[-15:] for line in segment().splitlines()[-2:]] == ["confidence 0.75", "confidence 0.25"]
    assert [i["confidence"] for i in json.loads(segment("--json"))["instances"]] == [0.75, 0.25]
    left = json.loads(segment("--json", "--min-confidence", "0.5"))
    assert [i["confidence"] for i in left["instances"]] == [0.75] and "below min_confidence 0.5" in left["message"]
    assert json.loads(segment("--json", "--min-confidence", "0.8"))["status"] == "NO_OBJECT"
