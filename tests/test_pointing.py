"""Boxes, points and corrections instead of words: what becomes of good ones, and the sentence for each bad one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segzero_ros.core.contract import (
    Boxes,
    Cancel,
    Event,
    Instance,
    Masks,
    Prompt,
    Segmentation,
    SegzeroError,
    Status,
)
from segzero_ros.core.geometry import pack
from segzero_ros.core.pointing import MAX_INSTANCES, MAX_POINTS, MAX_PROMPTS, read_prompts
from segzero_ros.core.space import Lifted, Status3D
from segzero_ros.models.segmenter_transformers import TransformersSegmenter, load_segmenter
from segzero_ros.overlay import caption, draw_overlay
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile

HEIGHT, WIDTH = 120, 160
IMAGE = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
BOX = (10.0, 20.0, 90.0, 100.0)


def instance(index: int, label: str = "mug", **more: Any) -> Instance:
    packed = pack(np.ones((HEIGHT, WIDTH), bool))
    given = {"prompt_box": BOX, "prompt_points": ((30.0, 40.0),)} | more
    return Instance(index, label, 0.5, packed, (0, 0, WIDTH, HEIGHT), area=packed.area, **given)


def answer(*instances: Instance) -> Segmentation:
    return Segmentation(
        Status.OK, "found", "all mugs", HEIGHT, WIDTH, instances, reasoning="they are mugs", model="a + b", text="text"
    )


def correcting(index: int, request: str = "a", **more: Any) -> Prompt:
    return Prompt(**({"points": ((5.0, 6.0),)} | more), corrects=(request, index))


class TestPrompts:
    """Read alone, without a model."""

    def test_each_becomes_a_candidate_in_their_order(self) -> None:
        prompts = [Prompt(BOX), Prompt(points=((3.0, 4.0), (5.0, 6.0)), positive=(True, False)), Prompt(BOX, ((7, 8),))]
        read = read_prompts(prompts, "cup", HEIGHT, WIDTH)
        assert read.indices == (1, 2, 3) and [c.label for c in read.candidates] == ["cup"] * 3
        assert [c.box for c in read.candidates] == [BOX, None, BOX]
        assert [c.points for c in read.candidates] == [(), ((3, 4),), ((7, 8),)]
        assert read.candidates[1].negative == ((5, 6),)

    def test_without_a_label_they_are_objects(self) -> None:
        assert read_prompts([Prompt(BOX)], "", HEIGHT, WIDTH).candidates[0].label == "object"

    def test_a_box_beyond_the_image_is_clipped_and_said_to_be(self) -> None:
        read = read_prompts([Prompt((-5, 20, 500, 60)), Prompt(BOX), Prompt((0, 0, 161, 9))], "", HEIGHT, WIDTH)
        assert read.candidates[0].box == (0, 20, WIDTH, 60) and read.candidates[1].box == BOX
        assert "; ".join(read.sentences()) == "3 objects; clipped to the image: the box of prompts 1, 3"

    @pytest.mark.parametrize("point", [(0, 0), (WIDTH - 1, HEIGHT - 1), (WIDTH - 0.01, HEIGHT - 0.01)])
    def test_a_point_may_be_anywhere_in_the_image(self, point: Any) -> None:
        assert read_prompts([Prompt(points=(point,))], "", HEIGHT, WIDTH).candidates[0].points == (point,)

    @pytest.mark.parametrize(
        ("prompt", "words"),
        [
            (Prompt(), "neither a box nor a point on the object"),
            (Prompt(points=((1, 2),), positive=(False,)), "neither a box nor a point on the object"),
            (Prompt(points=((math.nan, 2),)), "its point is not two finite numbers"),
            (Prompt(points=((1, math.inf),)), "its point is not two finite numbers"),
            (Prompt(points=((1, 2, 3),)), "its point is not two finite numbers"),  # type: ignore[arg-type]
            (Prompt(points=(7,)), "its point is not two finite numbers"),  # type: ignore[arg-type]
            (Prompt(points=((-0.5, 2),)), "its point (-0.5, 2) lies outside the image of 160 x 120 pixels"),
            (Prompt(points=((WIDTH, 2),)), "its point (160, 2) lies outside"),
            (Prompt(points=((1, HEIGHT),)), "its point (1, 120) lies outside"),
            (Prompt(BOX, ((1, HEIGHT),), (False,)), "its point (1, 120) lies outside"),
            (Prompt((1, 2, math.nan, 4)), "its box is not four finite numbers"),
            (Prompt((1, 2, 3)), "its box is not four finite numbers"),  # type: ignore[arg-type]
            (Prompt((1, 2, 3, 10**400)), "its box is not four finite numbers"),
            (Prompt((1, 2, 1, 4)), "its box [1, 2, 1, 4] has no area"),
            (Prompt((0, 0, 0, 0)), "its box [0, 0, 0, 0] has no area"),
            (Prompt((9, 2, 1, 4)), "has its edges the wrong way round"),
            (Prompt((1, 9, 2, 4)), "has its edges the wrong way round"),
            (Prompt((WIDTH, 2, WIDTH + 9, 4)), "its box [160, 2, 169, 4] lies outside the image of 160 x 120 pixels"),
            (Prompt((-9, -9, 0, 4)), "lies outside the image"),
            (Prompt(points=((1, 2), (3, 4)), positive=(True,)), "2 points, and says of 1"),
            (Prompt(BOX, positive=(True,)), "0 points, and says of 1"),
            (Prompt(points=((1, 2),) * (MAX_POINTS + 1)), "101 points; 100 are taken"),
            (correcting(1), "corrects an answer that is not kept"),
        ],
    )
    def test_a_bad_one_is_refused_by_its_number(self, prompt: Prompt, words: str) -> None:
        with pytest.raises(SegzeroError) as error:
            read_prompts([Prompt(BOX), prompt], "", HEIGHT, WIDTH)
        assert error.value.status is Status.BAD_REQUEST and error.value.message.startswith("prompt 2: ")
        assert words in error.value.message and len(error.value.message) < 300

    @pytest.mark.parametrize("count", [0, MAX_PROMPTS + 1])
    def test_there_is_at_least_one_and_not_too_many(self, count: int) -> None:
        with pytest.raises(SegzeroError) as error:
            read_prompts([Prompt(BOX)] * count, "", HEIGHT, WIDTH)
        assert error.value.status is Status.BAD_REQUEST

    @given(
        st.lists(
            st.builds(
                Prompt,
                st.none() | st.tuples(*[st.floats(-50, 400) | st.sampled_from([math.nan, math.inf, -math.inf])] * 4),
                st.lists(st.tuples(st.floats(-5, 200), st.floats(-5, 200)), max_size=4).map(tuple),
                st.lists(st.booleans(), max_size=4).map(tuple),
                st.none() | st.tuples(st.text(max_size=2), st.integers(-1, 3)),
            ),
            max_size=4,
        )
    )
    def test_they_are_refused_in_a_sentence_or_all_lie_in_the_image(self, prompts: list[Prompt]) -> None:
        try:
            read = read_prompts(prompts, "", HEIGHT, WIDTH, answer(instance(1), instance(2)))
        except SegzeroError as error:
            assert error.status is Status.BAD_REQUEST and 0 < len(error.message) < 300
            return
        for c in read.candidates:
            assert c.box is not None or c.points
            assert all(0 <= x < WIDTH and 0 <= y < HEIGHT for x, y in c.points + c.negative)
            if c.box is not None:
                assert 0 <= c.box[0] < c.box[2] <= WIDTH and 0 <= c.box[1] < c.box[3] <= HEIGHT


class TestCorrections:
    """Read alone, without a model."""

    def test_all_that_was_given_before_counts_with_what_is_new(self) -> None:
        earlier = answer(instance(1), instance(2, "cup", negative_points=((1.0, 1.0),)))
        new = correcting(2, points=((5.0, 6.0), (7.0, 8.0)), positive=(False, True))
        read = read_prompts([new], "ignored", HEIGHT, WIDTH, earlier)
        (c,) = read.candidates
        assert read.indices == (2,) and c.label == "cup" and c.box == BOX
        assert c.points == ((30, 40), (7, 8)) and c.negative == ((1, 1), (5, 6))

    def test_a_new_box_takes_the_place_of_the_old_one_and_of_the_mask(self) -> None:
        logits = np.zeros((4, 4), np.float16)
        earlier = answer(instance(1, logits=logits))
        kept = read_prompts([correcting(1)], "", HEIGHT, WIDTH, earlier).candidates[0]
        boxed = read_prompts([correcting(1, box=(1.0, 1.0, 9.0, 9.0))], "", HEIGHT, WIDTH, earlier).candidates[0]
        assert kept.box == BOX and kept.earlier is logits
        assert boxed.box == (1, 1, 9, 9) and boxed.earlier is None

    def test_an_empty_mask_is_no_hint(self) -> None:
        nothing = replace(instance(1, logits=np.zeros((4, 4), np.float16)), area=0)
        assert read_prompts([correcting(1)], "", HEIGHT, WIDTH, answer(nothing)).candidates[0].earlier is None

    def test_a_point_of_the_other_kind_on_the_same_pixel_is_taken_back(self) -> None:
        new = correcting(1, points=((30.4, 40.6), (9.0, 9.0)), positive=(False, True))
        (c,) = read_prompts([new], "", HEIGHT, WIDTH, answer(instance(1, negative_points=((9.2, 9.2),)))).candidates
        assert c.points == ((9.0, 9.0),) and c.negative == ((30.4, 40.6),)

    def test_points_of_words_beyond_the_last_pixel_are_moved_onto_it(self) -> None:
        earlier = answer(instance(1, prompt_points=((float(WIDTH), float(HEIGHT)),)))
        (c,) = read_prompts([correcting(1)], "", HEIGHT, WIDTH, earlier).candidates
        assert c.points[0] == (WIDTH - 1, HEIGHT - 1)

    @pytest.mark.parametrize(
        ("prompts", "words"),
        [
            ([correcting(3)], "prompt 1: it corrects object 3, and that answer has the objects 1 to 2"),
            ([correcting(0)], "corrects object 0"),
            ([correcting(1), correcting(1)], "object 1 is corrected by more than one prompt"),
            ([correcting(1), correcting(2, "b")], "prompt 2: it corrects another answer than prompt 1"),
            ([correcting(1, points=())], "corrects an object with neither a box nor a point"),
            ([correcting(1, points=((1.0, 1.0),) * MAX_POINTS)], "101 points; 100 are taken"),
        ],
    )
    def test_a_bad_one_is_refused_in_words(self, prompts: list[Prompt], words: str) -> None:
        with pytest.raises(SegzeroError, match="prompt") as error:
            read_prompts(prompts, "", HEIGHT, WIDTH, answer(instance(1), instance(2)))
        assert error.value.status is Status.BAD_REQUEST and words in error.value.message

    @pytest.mark.parametrize(
        ("earlier", "words"),
        [
            (answer(), "that answer has no objects"),
            (replace(answer(instance(1)), width=99), "an image of 99 x 120 pixels"),
        ],
    )
    def test_an_answer_that_does_not_fit_is_refused(self, earlier: Segmentation, words: str) -> None:
        with pytest.raises(SegzeroError) as error:
            read_prompts([correcting(1)], "", HEIGHT, WIDTH, earlier)
        assert error.value.status is Status.BAD_REQUEST and words in error.value.message

    def test_corrections_cannot_make_an_answer_grow_without_end(self) -> None:
        earlier = answer(*(instance(n) for n in range(1, MAX_INSTANCES + 1)))
        read_prompts([correcting(1)], "", HEIGHT, WIDTH, earlier)
        with pytest.raises(SegzeroError, match="254"):
            read_prompts([correcting(1), Prompt(BOX)], "", HEIGHT, WIDTH, earlier)


@pytest.fixture
def pipeline(models: tuple[Path, Path], one_thread: None) -> Pipeline:
    return Pipeline.load(load_profile("demo"), segmenter=str(models[1]), words=False)


@pytest.fixture
def encoded(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """What was encoded since."""
    images: list[object] = []
    encode = pipeline.segmenter.encode

    def counted(image: Any, **more: Any) -> object:
        images.append(image)
        return encode(image, **more)

    monkeypatch.setattr(pipeline.segmenter, "encode", counted)
    yield images


class TestAnswers:
    """The whole chain with a small random model of the real class."""

    def test_each_prompt_has_its_instance_and_says_what_it_was_given(self, pipeline: Pipeline) -> None:
        prompts = [Prompt(BOX), Prompt(points=((30, 40), (5, 6)), positive=(True, False)), Prompt(BOX, ((20.5, 30.5),))]
        result = pipeline.segment_prompts(IMAGE, prompts, "the mug")
        assert result.status is Status.OK and result.message.startswith("3 objects")
        assert (result.height, result.width, result.instruction) == (HEIGHT, WIDTH, "the mug")
        assert [i.index for i in result.instances] == [1, 2, 3] and {i.label for i in result.instances} == {"the mug"}
        assert [i.prompt_box for i in result.instances] == [BOX, None, BOX]
        assert [i.prompt_points for i in result.instances] == [(), ((30, 40),), ((20.5, 30.5),)]
        assert [i.negative_points for i in result.instances] == [(), ((5, 6),), ()]
        assert all(i.mask.shape == (HEIGHT, WIDTH) and 0 <= i.score <= 1 for i in result.instances)
        assert result.model == pipeline.segmenter.info.full_name
        assert result.timing.reason == 0 and 0 < result.timing.segment < result.timing.total

    def test_boxes_and_masks_are_told_as_of_words(self, pipeline: Pipeline) -> None:
        seen: list[Event] = []
        result = pipeline.segment_prompts(IMAGE, [Prompt(BOX)], on_event=seen.append)
        boxes, masks = seen
        assert isinstance(boxes, Boxes) and boxes.whole and boxes.candidates[0].box == BOX
        assert isinstance(masks, Masks) and masks.instances == result.instances

    def test_a_click_on_the_image_that_is_kept_costs_no_encoding(
        self, pipeline: Pipeline, encoded: list[object]
    ) -> None:
        first = pipeline.segment_prompts(IMAGE, [Prompt(points=((30, 40),))])
        pipeline.segment_prompts(IMAGE.copy(), [Prompt(points=((50, 60),))])
        pipeline.segment_prompts(IMAGE, [correcting(1)], earlier=first)
        assert len(encoded) == 1

    def test_what_is_refused_is_not_encoded(self, pipeline: Pipeline, encoded: list[object]) -> None:
        result = pipeline.segment_prompts(IMAGE, [Prompt()], "mug")
        assert result.status is Status.BAD_REQUEST and result.message.startswith("prompt 1: ") and not encoded
        assert result.instruction == "mug" and result.model == pipeline.segmenter.info.full_name

    @pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), None])
    def test_what_is_no_image_is_refused(self, pipeline: Pipeline, image: Any) -> None:
        assert pipeline.segment_prompts(image, [Prompt(BOX)]).status is Status.UNSUPPORTED_ENCODING

    def test_a_label_is_bounded_as_an_instruction_is(self, pipeline: Pipeline) -> None:
        assert pipeline.segment_prompts(IMAGE, [Prompt(BOX)], "m" * 9999).status is Status.BAD_INSTRUCTION
        assert pipeline.segment_prompts(IMAGE, [Prompt(BOX)], "a\nmug").instances[0].label == "a mug"

    def test_it_can_be_cancelled_and_run_out_of_time(self, pipeline: Pipeline) -> None:
        flag = Cancel()
        flag.set()
        assert pipeline.segment_prompts(IMAGE, [Prompt(BOX)], cancel=flag).status is Status.CANCELLED
        assert pipeline.segment_prompts(IMAGE, [Prompt(BOX)], timeout=1e-9).status is Status.TIMEOUT

    @pytest.mark.parametrize(
        ("error", "status"), [(MemoryError(), "OUT_OF_MEMORY"), (RuntimeError("kernel died"), "BACKEND_ERROR")]
    )
    def test_a_failing_model_is_a_typed_status(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(pipeline.segmenter, "segment_pointed", fail)
        assert pipeline.segment_prompts(IMAGE, [Prompt(BOX)]).status.value == status

    def test_a_correction_leaves_the_rest_of_the_answer_as_it_was(self, pipeline: Pipeline) -> None:
        lifted = Lifted(Status3D.OK)
        earlier = answer(instance(1, "mug", lifted=lifted), instance(2, "cup"), instance(3, "bowl", lifted=lifted))
        result = pipeline.segment_prompts(IMAGE, [Prompt(BOX), correcting(2)], earlier=earlier)
        assert result.status is Status.OK and result.message.startswith("4 objects, 1 corrected")
        assert [(i.index, i.label) for i in result.instances] == [(1, "mug"), (2, "cup"), (3, "bowl"), (4, "object")]
        assert result.instances[0] == replace(earlier.instances[0], lifted=None)
        assert result.instances[2] == replace(earlier.instances[2], lifted=None)
        assert result.instances[1].prompt_points == ((30, 40), (5, 6))
        assert (result.instruction, result.reasoning, result.text) == ("all mugs", "they are mugs", "text")
        assert result.model == "a + b" and result.timing.total > 0

    def test_an_earlier_answer_that_nothing_corrects_does_not_count(self, pipeline: Pipeline) -> None:
        result = pipeline.segment_prompts(IMAGE, [Prompt(BOX)], earlier=replace(answer(instance(1)), width=9))
        assert [i.index for i in result.instances] == [1] and result.instruction == ""

    def test_words_are_refused_where_only_prompts_are_asked_for(self, pipeline: Pipeline) -> None:
        for result in (pipeline.segment(IMAGE, "the mug"), *pipeline.segment_batch([IMAGE], ["the mug"])):
            assert result.status is Status.BAD_REQUEST and "no reasoning model is loaded" in result.message

    def test_points_that_are_not_on_it_are_drawn_and_an_empty_label_is_not(self, pipeline: Pipeline) -> None:
        with_it = answer(instance(1, negative_points=((100.0, 60.0),)))
        without = answer(instance(1))
        assert not np.array_equal(draw_overlay(IMAGE, with_it), draw_overlay(IMAGE, without))
        assert caption(replace(without, instruction=""), 300).shape[0] < caption(without, 300).shape[0]


@pytest.fixture
def segmenter(models: tuple[Path, Path], one_thread: None) -> TransformersSegmenter:
    return load_segmenter(load_profile("demo"), str(models[1]))


def decoded(segmenter: TransformersSegmenter, **prompt: Any) -> tuple[np.ndarray, torch.Tensor]:
    """The mask that the library's own model makes of the image, and its logits."""
    features = segmenter.encode(IMAGE)
    scale = torch.tensor([segmenter.side / WIDTH, segmenter.side / HEIGHT])
    if "input_points" in prompt:
        prompt["input_points"] = prompt["input_points"] * scale
    with torch.inference_mode():
        out = segmenter.model(image_embeddings=list(features.embeddings), **prompt)
    logits = out.pred_masks[0, 0, out.iou_scores[0, 0].argmax()]
    large = torch.nn.functional.interpolate(logits[None, None], (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
    return (large[0, 0] > 0).numpy(), logits


class TestSegmenter:
    """What SAM 2 is given, against the library's own model with random weights."""

    def pointed(self, segmenter: TransformersSegmenter, prompt: Prompt, earlier: Any = None) -> np.ndarray:
        (c,) = read_prompts([prompt], "", HEIGHT, WIDTH).candidates
        ((mask, _),) = segmenter.segment_pointed(segmenter.encode(IMAGE), [replace(c, earlier=earlier)])
        return mask

    def test_points_that_are_not_on_it_have_the_label_0(self, segmenter: TransformersSegmenter) -> None:
        points = torch.tensor([[[[30.0, 40.0], [90.0, 100.0]]]])
        prompt = Prompt(points=((30, 40), (90, 100)), positive=(True, False))
        labels = torch.tensor([[[1, 0]]])
        wanted, _ = decoded(segmenter, input_points=points, input_labels=labels, multimask_output=False)
        assert np.array_equal(self.pointed(segmenter, prompt), wanted) and 0 < wanted.sum() < wanted.size
        other, _ = decoded(segmenter, input_points=points, input_labels=torch.ones_like(labels), multimask_output=False)
        assert not np.array_equal(wanted, other)

    @pytest.mark.parametrize("count", [1, 2])
    def test_a_single_click_alone_has_several_masks_to_choose_from(
        self, segmenter: TransformersSegmenter, count: int
    ) -> None:
        segmenter.model.mask_decoder.dynamic_multimask_via_stability = False  # random single masks are not stable
        places = [[30.0, 40.0], [90.0, 100.0]][:count]
        given = {"input_points": torch.tensor([[places]]), "input_labels": torch.ones(1, 1, count, dtype=torch.int64)}
        wanted, _ = decoded(segmenter, **given, multimask_output=count == 1)
        other, _ = decoded(segmenter, **given, multimask_output=count != 1)
        found = self.pointed(segmenter, Prompt(points=tuple((x, y) for x, y in places)))
        assert np.array_equal(found, wanted) and not np.array_equal(found, other)

    def test_prompts_of_many_forms_are_answered_in_their_order(self, segmenter: TransformersSegmenter) -> None:
        prompts = [
            Prompt(BOX),
            Prompt(points=((30, 40),)),
            Prompt(BOX, ((30, 40), (5, 6)), (True, False)),
            Prompt(points=((90, 40), (5, 6)), positive=(True, False)),
            Prompt((0, 0, 50, 50)),
        ]
        candidates = read_prompts(prompts, "", HEIGHT, WIDTH).candidates
        together = segmenter.segment_pointed(segmenter.encode(IMAGE), candidates)
        for prompt, (mask, _) in zip(prompts, together, strict=True):
            assert np.array_equal(mask, self.pointed(segmenter, prompt))

    def test_a_model_that_never_learnt_to_read_masks_is_given_none(self, segmenter: TransformersSegmenter) -> None:
        """Its weights for them are random: the embedded model's too."""
        assert not segmenter.learned_masks and not load_segmenter(load_profile("demo")).learned_masks
        found: Any = segmenter.segment_pointed(
            segmenter.encode(IMAGE), read_prompts([Prompt(BOX)], "", 120, 160).candidates
        )
        assert found.logits(0) is None
        earlier = np.full((16, 16), 20, np.float16)
        assert np.array_equal(self.pointed(segmenter, Prompt(BOX)), self.pointed(segmenter, Prompt(BOX), earlier))


class TestLearnedMasks:
    """A model whose weights for earlier masks are not those of its beginning, as of the published checkpoints."""

    @pytest.fixture
    def learned(self, models: tuple[Path, Path], segmenter: TransformersSegmenter) -> TransformersSegmenter:
        generator = torch.Generator().manual_seed(0)
        for weights in segmenter.model.prompt_encoder.mask_embed.parameters():
            weights.data = torch.randn(weights.shape, generator=generator)
        return TransformersSegmenter(segmenter.model, segmenter.info)

    def test_a_correction_is_given_the_logits_of_the_mask_that_it_corrects(
        self, learned: TransformersSegmenter, pipeline: Pipeline
    ) -> None:
        pipeline = Pipeline(pipeline.reasoner, learned, pipeline.profile)
        first = pipeline.segment_prompts(IMAGE, [Prompt(points=((30, 40),)), Prompt(BOX)])
        click = {
            "input_points": torch.tensor([[[[30.0, 40.0]]]]),
            "input_labels": torch.ones(1, 1, 1, dtype=torch.int64),
        }
        wanted, logits = decoded(learned, **click)
        assert np.array_equal(first.instances[0].mask, wanted) and wanted.any()
        held = logits.clamp(-32, 32).half()
        assert np.array_equal(first.instances[0].logits, held.numpy())  # type: ignore[arg-type]

        new = correcting(1, points=((90, 100),), positive=(False,))
        second = pipeline.segment_prompts(IMAGE, [new, Prompt(BOX)], earlier=first)
        both = {
            "input_points": torch.tensor([[[[30.0, 40.0], [90.0, 100.0]]]]),
            "input_labels": torch.tensor([[[1, 0]]]),
        }
        wanted, _ = decoded(learned, **both, input_masks=held.float()[None, None], multimask_output=False)
        without, _ = decoded(learned, **both, multimask_output=False)
        assert np.array_equal(second.instances[0].mask, wanted) and not np.array_equal(wanted, without)
        assert second.instances[1] == first.instances[1]
        assert np.array_equal(second.instances[2].mask, first.instances[1].mask), "a new one is given no mask"

    def test_masks_of_words_can_be_corrected_too(self, learned: TransformersSegmenter) -> None:
        found: Any = learned.segment(learned.encode(IMAGE), [BOX], [()])
        assert found.logits(0).dtype == np.float16 and found.logits(0).shape == (16, 16)
        assert bool(found[0][0].any()) == bool((found.logits(0) > 0).any())
