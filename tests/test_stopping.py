"""A set flag stops a model within two blocks, wherever it is: vision tower, prompt, SAM's encoder, between masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from segzero_ros.core.contract import Boxes, Cancel, Event, Status, Stopped
from segzero_ros.models.reasoner_transformers import TransformersReasoner, load_reasoner
from segzero_ros.models.segmenter_transformers import TransformersSegmenter, load_segmenter
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile
from tests import tiny_models

IMAGE = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
MOST = 2  # blocks that may still run


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def reasoner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TransformersReasoner:
    folder = tmp_path_factory.mktemp("reasoner")
    if request.param == "qwen2_5_vl":
        return load_reasoner(replace(load_profile("demo"), max_new_tokens=8), str(tiny_models.save_reasoner(folder)))
    profile = replace(load_profile("qwen3-vl"), square=128, max_new_tokens=8)
    return load_reasoner(profile, str(tiny_models.save_qwen3_vl(folder)), dtype="float32")


@pytest.fixture(scope="module")
def segmenter() -> TransformersSegmenter:
    return load_segmenter(load_profile("demo"))


@contextmanager
def set_at(blocks: Any, flag: Cancel, at: int) -> Iterator[list[int]]:
    """Sets the flag when block number `at` has run, and notes which blocks run after that."""
    ran: list[int] = []

    def note(number: int) -> Any:
        def hook(*_: Any) -> None:
            if flag.is_set():
                ran.append(number)
            elif number == at:
                flag.set()

        return hook

    handles = [block.register_forward_hook(note(n)) for n, block in enumerate(blocks)]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def square(reasoner: TransformersReasoner) -> Any:
    return IMAGE[: reasoner.profile.square, : reasoner.profile.square]


@pytest.mark.parametrize("part", ["vision tower", "prompt"])
@pytest.mark.parametrize("at", [0, 1])
def test_a_generation_stops_within_two_blocks(reasoner: TransformersReasoner, part: str, at: int) -> None:
    inner: Any = reasoner.model.model
    blocks = inner.visual.blocks if part == "vision tower" else inner.language_model.layers
    flag = Cancel()
    with set_at(blocks, flag, at) as ran:
        (generation,) = reasoner.generate([square(reasoner)], ["the mug"], cancel=flag)
    assert len(ran) <= MOST and flag.is_set()
    assert generation.cancelled and generation.text == "" and generation.completion_tokens == 0


def test_a_stopped_generation_leaves_nothing_behind(reasoner: TransformersReasoner) -> None:
    wanted = reasoner.generate([square(reasoner)], ["the mug"])
    flag = Cancel()
    with set_at(reasoner.model.model.visual.blocks, flag, 0):
        reasoner.generate([square(reasoner)], ["the mug"], cancel=flag)
    again = reasoner.generate([square(reasoner)], ["the mug"], cancel=Cancel())
    assert [g.text for g in again] == [g.text for g in wanted]
    assert not any(m._forward_pre_hooks for m in reasoner.model.modules())


def test_text_that_was_written_is_kept_when_the_writing_is_stopped(reasoner: TransformersReasoner) -> None:
    flag = Cancel()
    (generation,) = reasoner.generate([square(reasoner)], ["the mug"], cancel=flag, on_text=lambda *_: flag.set())
    assert generation.cancelled or not generation.truncated
    assert generation.completion_tokens >= 1


def test_an_encoding_stops_within_two_blocks(segmenter: TransformersSegmenter) -> None:
    flag = Cancel()
    with set_at(segmenter.model.vision_encoder.backbone.blocks, flag, 1) as ran, pytest.raises(Stopped):
        segmenter.encode(IMAGE, cancel=flag)
    assert len(ran) <= MOST
    segmenter.encode(IMAGE, cancel=Cancel())


def test_no_mask_is_made_after_the_flag(segmenter: TransformersSegmenter) -> None:
    flag = Cancel()
    box = (10.0, 10.0, 300.0, 200.0)
    masks = segmenter.segment(segmenter.encode(IMAGE), [box] * 3, [()] * 3, cancel=flag)
    first = masks[0]
    flag.set()
    assert first[0].shape == IMAGE.shape[:2]
    with pytest.raises(Stopped):
        masks[1]


class TestWholeRequests:
    """The embedded models: what is told of a request that was stopped in one of its stages."""

    @pytest.fixture(scope="class")
    def pipeline(self) -> Pipeline:
        return Pipeline.load(load_profile("demo"), trial=False)

    def blocks(self, pipeline: Pipeline, stage: str) -> Any:
        model: Any = pipeline.reasoner.model.model  # type: ignore[attr-defined]
        sam: Any = pipeline.segmenter.model  # type: ignore[attr-defined]
        return {
            "vision tower": model.visual.blocks,
            "prompt": model.language_model.layers,
            "encoder": sam.vision_encoder.backbone.blocks,
        }[stage]

    @pytest.mark.parametrize("stage", ["vision tower", "prompt", "encoder"])
    def test_a_cancelled_request_says_so_with_its_times(self, pipeline: Pipeline, stage: str) -> None:
        pipeline.forget()
        flag = Cancel()
        image = tabletop()
        with set_at(self.blocks(pipeline, stage), flag, 0):
            result = pipeline.segment(image, "the duck", cancel=flag)
        assert result.status is Status.CANCELLED and not result.instances
        assert result.timing.preprocess > 0 and result.timing.reason > 0 and result.timing.total > 0
        if stage == "encoder":
            assert result.timing.segment > 0 and result.reasoning and result.answer, "what was thought is kept"

    def test_the_time_holds_for_the_masks_too(self, pipeline: Pipeline) -> None:
        pipeline.forget()
        clock = Late()

        def late(event: Event) -> None:
            if isinstance(event, Boxes) and event.whole:
                clock.over = True

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("segzero_ros.core.steps.time", clock)
            result = pipeline.segment(tabletop(), "the duck", timeout=1000.0, on_event=late)
        assert result.status is Status.TIMEOUT and "1000 s" in result.message
        assert result.reasoning and not result.instances


class Late:
    """A clock that can be put forward."""

    over = False

    def perf_counter(self) -> float:
        return 1e6 if self.over else 0.0


def tabletop() -> Any:
    from tests.test_published_layout import first_frame

    return first_frame()


def test_flags_cost_nothing_where_nobody_can_set_one(reasoner: TransformersReasoner) -> None:
    with torch.inference_mode():
        before = [len(m._forward_pre_hooks) for m in reasoner.model.modules()]
        reasoner.generate([square(reasoner)], ["the mug"], max_new_tokens=1)
    assert before == [len(m._forward_pre_hooks) for m in reasoner.model.modules()]
