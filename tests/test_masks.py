"""Masks of many objects: made one by one, kept as the bits of their boxes, and missing in words only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segzero_ros.core.contract import Box, Cancel, Generation, LoadedModel, Point, SegzeroError, Status, Stopped
from segzero_ros.core.geometry import label_image, mask_iou, pack, packed_iou, union_mask
from segzero_ros.core.pipeline import Pipeline
from segzero_ros.models.segmenter_transformers import PROMPTS, Features, TransformersSegmenter, load_segmenter
from segzero_ros.profiles import load_profile

ROOT = Path(__file__).resolve().parent.parent
IMAGE = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
BoolMask = NDArray[np.bool_]


@st.composite
def several_masks(draw: st.DrawFn) -> list[BoolMask]:
    """Up to four of one shape, empty and full ones among them."""
    shape = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    return [rng.random(shape) < draw(st.sampled_from([0, 0.02, 0.5, 1])) for _ in range(draw(st.integers(0, 4)))]


@given(several_masks())
def test_a_packed_mask_is_the_mask(masks: list[BoolMask]) -> None:
    for mask in masks:
        packed = pack(mask)
        assert np.array_equal(packed.full(), mask) and packed.full().dtype == bool
        assert np.array_equal(packed.crop(), mask[packed.window]) and packed.area == mask.sum()
        assert 8 * len(packed.bits) < packed.crop().size + 8


@given(several_masks(), st.lists(st.sampled_from([0.1, 0.5]), min_size=4, max_size=4))
def test_packed_masks_are_joined_and_compared_as_whole_ones(masks: list[BoolMask], scores: list[float]) -> None:
    height, width = masks[0].shape if masks else (3, 4)
    packed = [pack(m) for m in masks]
    assert np.array_equal(union_mask(packed, height, width), np.any([np.zeros((height, width)), *masks], 0))
    labels = np.zeros((height, width))
    for i in sorted(range(len(masks)), key=lambda i: (scores[i], -i)):
        labels[masks[i]] = i + 1
    assert np.array_equal(label_image(packed, scores, height, width), labels)
    for a, p in zip(masks, packed, strict=True):
        for b, q in zip(masks, packed, strict=True):
            assert packed_iou(p, q) == (mask_iou(a, b) if a.any() or b.any() else 0)


# The segmenter -----------------------------------------------------------------------------------------------------


@pytest.fixture
def segmenter(models: tuple[Path, Path], one_thread: None) -> TransformersSegmenter:
    return load_segmenter(load_profile("demo"), str(models[1]))


def boxes(count: int) -> list[Box | None]:
    corners = np.random.default_rng(1).integers(0, 60, (count, 4)).astype(float)
    return [(x, y, x + 1 + w, y + 1 + h) for x, y, w, h in corners.tolist()]


@torch.inference_mode()
def enlarged_at_once(segmenter: Any, features: Features, asked: list[Box | None]) -> list[tuple[BoolMask, float]]:
    """All prompts decoded and all masks enlarged in one tensor."""
    scale = torch.tensor([segmenter.side / features.width, segmenter.side / features.height])
    out = segmenter.model(
        image_embeddings=list(features.embeddings),
        input_boxes=torch.tensor([asked], dtype=torch.float32) * scale.repeat(2),
        multimask_output=True,
    )
    best = out.iou_scores[0].argmax(1)
    rows = torch.arange(len(asked))
    logits = out.pred_masks[0][rows, best][None]
    masks = F.interpolate(logits, (features.height, features.width), mode="bilinear", align_corners=False)[0] > 0
    scores = out.iou_scores[0][rows, best].clamp(0, 1).tolist()
    return list(zip(masks.numpy(), scores, strict=True))


def test_masks_made_one_by_one_are_those_made_at_once(segmenter: TransformersSegmenter) -> None:
    features, asked = segmenter.encode(IMAGE), boxes(PROMPTS)
    found = segmenter.segment(features, asked, [()] * len(asked))
    for (mask, score), (wanted, its) in zip(found, enlarged_at_once(segmenter, features, asked), strict=True):
        assert np.array_equal(mask, wanted) and score == its


def test_prompts_are_decoded_in_pieces_and_answered_in_their_order(
    segmenter: TransformersSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    decode = segmenter._decode

    def counted(features: Features, some: Any, points: Any) -> Any:
        sizes.append(len(some))
        return decode(features, some, points)

    monkeypatch.setattr(segmenter, "_decode", counted)
    asked = boxes(2 * PROMPTS + 5)
    points: list[tuple[Point, ...]] = [((80.0, float(n)),) if n % 5 == 0 else () for n in range(len(asked))]
    features = segmenter.encode(IMAGE)
    together = list(segmenter.segment(features, asked, points))
    assert max(sizes) <= PROMPTS and sum(sizes) == len(asked) and len(sizes) == 3
    for n, (mask, score) in enumerate(together):
        ((alone, its),) = segmenter.segment(features, [asked[n]], [points[n]])
        assert score == pytest.approx(its, abs=1e-4) and mask_iou(mask, alone) > 0.99


class After(Cancel):
    """Set once it has been looked at so often."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left = looks

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_cancel_is_seen_between_pieces_and_between_masks(segmenter: TransformersSegmenter) -> None:
    features, asked = segmenter.encode(IMAGE), boxes(2 * PROMPTS)
    for looks in (0, 1):
        with pytest.raises(Stopped):
            segmenter.segment(features, asked, [()] * len(asked), cancel=After(looks))
    made = iter(segmenter.segment(features, asked, [()] * len(asked), cancel=After(2 + 3)))
    assert [next(made)[0].shape for _ in range(3)] == [(120, 160)] * 3
    with pytest.raises(Stopped):
        next(made)


@pytest.mark.parametrize(
    ("head", "number"),
    [("iou_prediction_head.proj_out", "nan"), ("upscale_conv2", "nan"), ("upscale_conv2", "inf")],
)
def test_numbers_that_are_not_finite_are_no_answer(segmenter: TransformersSegmenter, head: str, number: str) -> None:
    with torch.no_grad():
        segmenter.model.mask_decoder.get_submodule(head).bias[1] = float(number)
    with pytest.raises(SegzeroError) as error:
        segmenter.segment(segmenter.encode(IMAGE), boxes(2), [(), ()])
    assert error.value.status is Status.BACKEND_ERROR
    assert error.value.message == "the segmenter gave non-finite numbers"


def test_an_overflow_in_half_precision_is_called_so(models: tuple[Path, Path], one_thread: None) -> None:
    segmenter = load_segmenter(load_profile("demo"), str(models[1]), dtype="float16")
    with torch.no_grad():
        for network in segmenter.model.mask_decoder.output_hypernetworks_mlps:
            network.proj_out.bias.fill_(6e4)
        segmenter.model.mask_decoder.upscale_conv2.bias.fill_(6e4)
    with pytest.raises(SegzeroError) as error:
        segmenter.segment(segmenter.encode(IMAGE), boxes(2), [(), ()])
    assert error.value.status is Status.BACKEND_ERROR and "float16 holds no number above 65504" in error.value.message


# The whole answer --------------------------------------------------------------------------------------------------

INFO = LoadedModel("made up", "", 0, "float32", "cpu", 0)


class Saying:
    """A reasoner that names so many small objects."""

    info = INFO

    def __init__(self, count: int, wide: int = 3, high: int = 2) -> None:
        objects = [{"bbox_2d": [3 * n, 0, 3 * n + wide, high], "label": f"object {n}"} for n in range(count)]
        self.text = f"<think>They are small.</think><answer>{json.dumps(objects)}</answer>"

    def generate(self, squares: Any, prompts: Any, **_: Any) -> list[Generation]:
        return [Generation(self.text, 1, 1, False, False, 0.0) for _ in prompts]


class Masks(Sequence[Any]):
    """Masks of which every second one is empty; making the `failing` one raises."""

    info = INFO

    def __init__(self, failing: int, error: Exception | None) -> None:
        self.failing, self.error = failing, error

    def encode(self, image: Any, *, cancel: Cancel | None = None) -> Any:
        self.size = image.shape[:2]

    def segment(self, features: Any, asked: Any, points: Any, *, cancel: Cancel | None = None) -> Sequence[Any]:
        self.number = len(asked)
        return self

    def segment_pointed(self, features: Any, candidates: Any, *, cancel: Cancel | None = None) -> Sequence[Any]:
        return self.segment(features, candidates, ())

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, n: Any) -> Any:
        if n == self.failing and self.error:
            raise self.error
        if n >= self.number:
            raise IndexError
        return np.full(self.size, n % 2 == 0), 0.5


def answer(count: int, failing: int = -1, error: Exception | None = None) -> Any:
    return Pipeline(Saying(count), Masks(failing, error), load_profile("demo"))


OUT = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate")


@pytest.mark.parametrize(("error", "status"), [(OUT, "OUT_OF_MEMORY"), (ValueError("dead"), "BACKEND_ERROR")])
def test_what_was_thought_outlives_the_masks(error: Exception, status: str) -> None:
    pipeline = answer(3, 2, error)
    for result in (pipeline.segment(IMAGE, "them"), *pipeline.segment_batch([IMAGE], ["them"])):
        assert result.status.value == status and not result.instances
        assert result.reasoning == "They are small." and '"bbox_2d": [6, 0, 9, 2]' in result.answer
        assert result.text == Saying(3).text and result.timing.reason >= 0
        assert result.message.endswith("there are no masks, but the boxes are in the answer")


def test_an_empty_mask_is_named_with_the_size_of_its_box() -> None:
    result = answer(3).segment(IMAGE, "them")
    assert result.status is Status.OK and [i.area for i in result.instances] == [120 * 160, 0, 120 * 160]
    assert result.message == "3 objects; object 2 has an empty mask (its box is 2 x 1 pixels)"
    assert result.instances[1].box == result.instances[1].prompt_box and not result.instances[1].mask.any()


def test_many_empty_masks_are_counted() -> None:
    message = answer(60).segment(IMAGE, "them").message
    assert "object 10 has" in message and "object 12 has" not in message
    assert message.endswith("25 more have empty masks") and len(message) < 400


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_a_box_of_a_few_pixels_has_a_mask_or_is_named(segmenter: TransformersSegmenter, side: int) -> None:
    """A pixel of the square that the reasoning model sees is less than one of this image."""
    result = Pipeline(Saying(5, side, side), segmenter, load_profile("demo")).segment(IMAGE, "them")
    assert result.status is Status.OK and len(result.instances) == 5
    for i in result.instances:
        assert bool(i.area) != (f"object {i.index} has an empty mask" in result.message)


def test_254_objects_at_4k_take_less_than_half_a_gigabyte(models: tuple[Path, Path]) -> None:
    command = [sys.executable, "tools/masks_memory.py", "--segmenter", str(models[1]), "--objects", "254"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["objects"] == 254 and found["peak_gb"] - found["kept_gb"] < 0.3 and found["peak_gb"] < 0.6
