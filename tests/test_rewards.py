"""Rewards as a specification: published ones with their loopholes, ours without, and what a reward can teach."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.rewards import PROFILES, compare, spread
from training.rewards.star import mask_ious

SINGLE = "<box>(100,100),(200,200)</box><points>(130,130),(170,170)</points>"
RIGHT = {"bbox": [100, 100, 200, 200], "points_1": [130, 130], "points_2": [170, 170]}
ONE = {"bbox_2d": [100, 100, 200, 200], "point_2d": [150, 150]}
OTHER = {"bbox_2d": [400, 400, 500, 500], "point_2d": [450, 450]}


def text(answer: Any, thought: str = "It is the red mug.") -> str:
    return f"<think>{thought}</think><answer>{json.dumps(answer)}</answer>"


def parts(profile: str, completion: str, solution: Any, **given: Any) -> dict[str, float]:
    solution = solution if isinstance(solution, str) else json.dumps(solution)
    return {k: v[0] for k, v in PROFILES[profile].parts([completion], [solution], **given).items()}


def total(profile: str, completion: str, solution: Any, **given: Any) -> float:
    solution = solution if isinstance(solution, str) else json.dumps(solution)
    return PROFILES[profile].score([completion], [solution], **given)[0]


@pytest.mark.parametrize("profile", [p for p in PROFILES if p not in ("segzero-answer", "random")])
def test_a_right_answer_wins_all_and_noise_next_to_nothing(profile: str) -> None:
    known = PROFILES[profile]
    single = known.solution == "single"
    solution = SINGLE if single else json.dumps([ONE])
    right = text(RIGHT if single else [{**ONE, "label": "mug"}])
    given: dict[str, Any] = {}
    if known.needs_masks:
        mask = np.zeros((1, 840, 840), bool)
        mask[0, 100:200, 100:200] = True
        given = {"masks": [mask], "images": [np.zeros((840, 840, 3), np.uint8)], "segmenter": FilledBoxes()}
    assert known.score([right], [solution], **given) == [pytest.approx(known.maximum)]
    assert known.score(["no idea"], [solution], **given)[0] <= 1.0


class FilledBoxes:
    """A segmenter whose masks are the boxes, so that a mask's IoU is known."""

    def encode(self, image: Any) -> Any:
        return image.shape[:2]

    def segment(self, features: Any, boxes: Any, points: Any) -> list[tuple[Any, float]]:
        found = []
        for x1, y1, x2, y2 in boxes:
            mask = np.zeros(features, bool)
            mask[round(y1) : round(y2), round(x1) : round(x2)] = True
            found.append((mask, 1.0))
        return found


class Failing(FilledBoxes):
    def segment(self, features: Any, boxes: Any, points: Any) -> list[tuple[Any, float]]:
        raise RuntimeError("no memory")


@pytest.mark.parametrize(("profile", "term", "full"), [("star", "accuracy", 7), ("segzero-mask", "masks", 1)])
def test_masks_of_a_model_that_writes_thousandths(profile: str, term: str, full: float) -> None:
    """Coordinates up to 1000 over an image of 840: the segmenter is asked in the image's pixels."""
    mask = np.zeros((1, 840, 840), bool)
    mask[0, 84:168, 588:756] = True
    true = {"bbox_2d": [700, 100, 900, 200], "point_2d": [800, 150]}
    given = {"masks": [mask], "images": [np.zeros((840, 840, 3), np.uint8)], "segmenter": FilledBoxes()}
    perfect = text([{**true, "label": "mug"}])
    assert parts(profile, perfect, [true], square=1000, **given)[term] == pytest.approx(full, abs=1e-3)
    assert total(profile, perfect, [true], square=1000, **given) == pytest.approx(PROFILES[profile].maximum, abs=1e-3)
    # In pixels of 840 the same numbers lie elsewhere, the box beyond the image.
    assert parts(profile, perfect, [true], square=840, **given)[term] < full - 0.5


class TestSegZeroAsPublished:
    def test_whole_form_or_nothing(self) -> None:
        assert parts("seg-zero", text(RIGHT), SINGLE)["thinking_format"] == 1
        assert parts("seg-zero", text(RIGHT) + "\n", SINGLE)["thinking_format"] == 0
        assert parts("seg-zero", text(RIGHT, thought=""), SINGLE)["thinking_format"] == 1
        assert parts("seg-zero", "<think></answer>", SINGLE)["thinking_format"] == 0

    def test_strict_keys_and_soft_keys(self) -> None:
        other = {"bbox_2d": RIGHT["bbox"], "points_1": RIGHT["points_1"], "point_2": RIGHT["points_2"]}
        assert parts("seg-zero", text(other), SINGLE)["answer_format"] == 0
        soft = parts("seg-zero-soft", text(other), SINGLE)
        assert (soft["answer_format"], soft["box_iou"], soft["point_l1"]) == (1, 1, 0)  # "points" is still needed

    def test_iou_must_exceed_one_half_with_inclusive_pixels(self) -> None:
        solution = "<box>(0,0),(99,99)</box><points>(1,1),(2,2)</points>"
        half = {**RIGHT, "bbox": [0, 0, 99, 49]}  # 100 x 50 of 100 x 100 pixels
        assert parts("seg-zero", text(half), solution)["box_iou"] == 0
        more = {**RIGHT, "bbox": [0, 0, 99, 50]}
        assert parts("seg-zero", text(more), solution)["box_iou"] == 1

    @pytest.mark.parametrize(("moved", "won"), [(39, 1), (40, 0)])
    def test_mean_l1_below_ten(self, moved: int, won: int) -> None:
        answer = {**RIGHT, "bbox": [100, 100, 200, 200 + moved]}
        assert parts("seg-zero", text(answer), SINGLE)["box_l1"] == won

    def test_thresholds_scale_with_the_square(self) -> None:
        solution = "<box>(20,20),(60,60)</box><points>(30,30),(50,50)</points>"
        answer = {"bbox": [20, 20, 60, 70], "points_1": [30, 30], "points_2": [50, 50]}  # mean L1 is 2.5
        assert parts("seg-zero", text(answer), solution, square=224)["box_l1"] == 1  # 2.67
        answer["bbox"] = [20, 20, 60, 71]
        assert parts("seg-zero", text(answer), solution, square=224)["box_l1"] == 0

    def test_points_may_be_swapped_and_the_box_may_be_huge(self) -> None:
        swapped = {"bbox": [0, 0, 840, 840], "points_1": [170, 170], "points_2": [130, 130]}
        assert parts("seg-zero", text(swapped), SINGLE)["point_l1"] == 1
        outside = {**RIGHT, "bbox": [100, 100, 160, 200]}
        assert parts("seg-zero", text(outside), SINGLE)["point_l1"] == 0

    def test_known_loopholes_are_kept(self) -> None:
        assert total("seg-zero", f"<think>{json.dumps(RIGHT)}</think><answer></answer>", SINGLE) == 5
        assert total("seg-zero", json.dumps(RIGHT), SINGLE) == 4

    def test_imitating_the_prompts_example_wins_the_tags_alone(self) -> None:
        assert total("seg-zero", text(RIGHT).replace('"', "'"), SINGLE) == 1

    def test_soft_accuracy_takes_the_keys_that_the_soft_format_takes(self) -> None:
        lax = {"Object_BBox": RIGHT["bbox"], "points_a": RIGHT["points_1"], "Points_b": RIGHT["points_2"]}
        soft = parts("seg-zero-soft-accuracy", text(lax), SINGLE)
        assert soft == dict.fromkeys(soft, 1) and len(soft) == 5
        assert total("seg-zero-soft", text(lax), SINGLE) == 5 and total("seg-zero", text(lax), SINGLE) == 1
        lax["point_b"] = lax.pop("Points_b")  # in seg.py enough for the format, and not for the points
        for profile in ("seg-zero-soft", "seg-zero-soft-accuracy"):
            found = parts(profile, text(lax), SINGLE)
            assert (found["answer_format"], found["box_iou"], found["box_l1"], found["point_l1"]) == (1, 1, 1, 0)


class TestArticle:
    def test_half_a_point_for_each_pair_of_tags(self) -> None:
        assert parts("article", text(RIGHT), SINGLE)["tags"] == 1
        assert parts("article", f"<think>x</think>{json.dumps(RIGHT)}", SINGLE)["tags"] == 0.5
        assert parts("article", json.dumps(RIGHT), SINGLE)["tags"] == 0

    def test_one_half_is_enough(self) -> None:
        solution = "<box>(0,0),(100,100)</box><points>(1,1),(2,2)</points>"
        assert parts("article", text({**RIGHT, "bbox": [0, 0, 100, 50]}), solution)["box_iou"] == 1


class TestVisionReasonerAsPublished:
    def test_several_objects_in_any_order(self) -> None:
        assert total("vision-reasoner", text([OTHER, ONE]), [ONE, OTHER]) == 7

    def test_too_few_and_doubles_cost(self) -> None:
        assert parts("vision-reasoner", text([ONE]), [ONE, OTHER])["accuracy"] == 1.5
        assert parts("vision-reasoner", text([ONE, ONE]), [ONE])["accuracy"] == 1.5

    def test_one_object_without_a_key_costs_all_accuracy(self) -> None:
        assert parts("vision-reasoner", text([ONE, {"bbox_2d": [1, 2, 3, 4]}]), [ONE])["accuracy"] == 0

    def test_nothing_matches_is_never_right(self) -> None:
        assert parts("vision-reasoner", text([]), [])["accuracy"] == 0

    def test_without_a_thought_a_thought_pays_nothing(self) -> None:
        alone = f"<answer>{json.dumps([ONE])}</answer>"
        assert total("vision-reasoner-answer", alone, [ONE]) == 6 == PROFILES["vision-reasoner-answer"].maximum
        assert total("vision-reasoner-answer", text([ONE]), [ONE]) == 6
        assert total("vision-reasoner-answer", text([ONE], "x. a. a. a."), [ONE]) == 5, "and may cost"
        assert total("vision-reasoner", alone, [ONE]) == 6 and total("vision-reasoner", text([ONE]), [ONE]) == 7

    def test_the_second_repetition_costs(self) -> None:
        assert parts("vision-reasoner", text([ONE], "x. a. a. b."), [ONE])["non_repeat"] == 1
        assert parts("vision-reasoner", text([ONE], "x. a. a. a."), [ONE])["non_repeat"] == 0
        assert parts("vision-reasoner", "", [ONE])["non_repeat"] == 1


class TestStar:
    IMAGE = np.zeros((840, 840, 3), np.uint8)

    @pytest.mark.parametrize(
        ("width", "paper", "code"),
        # The predicted box is the true one, cut to this width; IoU = width / 100.
        [(100, 4, 5), (85, 4, 4), (75, 3, 3), (60, 2, 2), (45, 0, 1), (20, 0, 0)],
    )
    def test_tiers_of_the_masks_iou(self, width: int, paper: float, code: float) -> None:
        mask = np.zeros((1, 840, 840), bool)
        mask[0, 100:200, 100:200] = True
        said = text([{**ONE, "bbox_2d": [100, 100, 100 + width, 200], "point_2d": [105, 150], "label": "mug"}])
        given = {"masks": [mask], "images": [self.IMAGE], "segmenter": FilledBoxes()}
        for profile, tier, more in (("star", paper, 0), ("star-code", code, 1)):
            with_masks = parts(profile, said, [ONE], **given)["accuracy"]
            without = parts(profile, said, [ONE])["accuracy"]
            assert with_masks - without == pytest.approx(tier)
            assert without >= more

    def test_the_second_stage_pays_masks_alone(self) -> None:
        masks = np.zeros((2, 840, 840), bool)
        masks[0, 100:200, 100:200] = True
        masks[1, 400:500, 400:500] = True
        given = {"masks": [masks], "images": [self.IMAGE], "segmenter": FilledBoxes()}

        def item(*box: Any, point: Any = (1, 1)) -> dict[str, Any]:
            return {"bbox_2d": list(box), "point_2d": list(point), "label": "mug"}

        def won(*items: dict[str, Any]) -> float:
            return parts("star-stage-2", text(list(items)), "not read", **given)["accuracy"]

        one, half, two = item(100, 100, 200, 200), item(100, 100, 160, 200), item(400, 400, 500, 500)
        assert won(one, two) == won(two, one) == 10
        assert won(one) == won(one, one) == 5, "too few, or one twice"
        assert won(half, two) == 2 + 5, "tier 2 for an IoU of .6"
        assert won(one, two, item(0, 0, 9, 9)) == pytest.approx(20 / 3)
        assert won() == 0
        for wrong in (item("100", "100", "200", "200"), item(1, 2, 3), item(1, 2, 3, 4, point=(1,))):
            assert won(wrong) == won(wrong, one) == 0, "an array of text, or none"
        for unread in (
            item(1, 2, 3, None),
            item(1, 2, 3, math.nan),
            item(1, 2, 3, 10**30 * 10**30),
            item(1, 2, 3, 4, point=(None, 3)),
        ):
            assert won(unread) == 0 and won(unread, one) == 5 == won(one, unread), "the other object counts"
            assert won(unread, one, two) == pytest.approx(20 / 3)
        assert parts("star-stage-2", text([one]), "not read")["accuracy"] == 0, "without masks"

    @pytest.mark.parametrize("profile", ["star", "star-code", "star-stage-2", "segzero-mask"])
    def test_an_image_is_encoded_once_for_all_answers_over_it(self, profile: str) -> None:
        class Counting(FilledBoxes):
            encoded = 0

            def encode(self, image: Any) -> Any:
                self.encoded += 1
                return super().encode(image)

        mask = np.zeros((1, 840, 840), bool)
        mask[0, 100:200, 100:200] = True
        images = [self.IMAGE] * 3 + [self.IMAGE + 1] * 2
        answers, counting = [text([{**ONE, "label": "mug"}])] * 5, Counting()
        given = {"masks": [mask] * 5, "images": images, "segmenter": counting}
        won = PROFILES[profile].score(answers, [json.dumps([ONE])] * 5, **given)
        assert counting.encoded == 2 and won == [pytest.approx(PROFILES[profile].maximum)] * 5

    def test_a_segmenter_that_fails_is_no_fault_of_the_texts(self) -> None:
        given = {"masks": [np.zeros((1, 840, 840), bool)], "images": [self.IMAGE], "segmenter": Failing()}
        for profile in ("star", "star-code", "star-stage-2", "segzero-mask"):
            with pytest.raises(RuntimeError, match="no memory"):
                parts(profile, text([{**ONE, "label": "mug"}]), [ONE], **given)
        unread = parts("star", "no idea", [ONE], **given)
        assert unread["accuracy"] == 0, "and it is not asked about a text that cannot be read"

    @given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
    def test_mask_ious_against_counting(self, m: int, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        a, b = rng.random((m, 6, 7)) < 0.4, rng.random((n, 6, 7)) < 0.4
        counted = [[(x & y).sum() / ((x | y).sum() + 1e-6) for y in b] for x in a]
        assert np.allclose(mask_ious(a, b), counted)


class TestOurs:
    def test_nothing_matches_is_right_where_nothing_does(self) -> None:
        assert total("segzero", text([], "There is none."), []) == 4
        assert total("segzero", text([ONE]), []) == 1
        assert total("segzero", text([], "There is none."), [ONE]) == 1

    def test_a_long_thought_costs_and_a_longer_one_costs_more(self) -> None:
        short, long, longer = (total("segzero", text([ONE], "red mug " * n), [ONE]) for n in (50, 80, 500))
        assert short == 4 > long > longer == 3.5

    def test_one_endless_word_is_long(self) -> None:
        assert parts("segzero", text([ONE], "m" * 5000), [ONE])["length"] == -0.5

    @pytest.mark.parametrize(
        "exploit",
        [
            f"<think>{json.dumps([ONE])}</think><answer></answer>",
            json.dumps([ONE]),
            f"<answer>{json.dumps([ONE])}</answer>",
            text([ONE], thought=""),
            text([ONE], thought=" . "),
            text([ONE]) + " and more",
            text([ONE]) + text([OTHER]),
            f"<think>a</think><answer>```json\n{json.dumps([ONE])}\n```</answer>",
            f"<think>a</think><answer>{json.dumps([ONE])[:-1]}, {json.dumps(OTHER)}]]</answer>",
            text([{**ONE, "bbox_2d": [200, 200, 100, 100]}]),
            text([{**ONE, "bbox_2d": [100, 100, 100, 200]}]),
            text([{**ONE, "bbox_2d": [100, 100, 200, 841]}]),
            text([{**ONE, "bbox_2d": [100, 100, 200, math.inf]}]),
            text([{**ONE, "bbox_2d": [100, 100, 200, True]}]),
            text([{**ONE, "note": "padding"}]),
            text([{"bbox_2d": ONE["bbox_2d"]}]),
            text([{**ONE, "label": "it is the red one since " * 20}]),
            text({"bbox_2d": ONE["bbox_2d"], "point_2d": ONE["point_2d"]}),
            f'<think>a</think><answer>[{{"bbox_2d": [1, 1, 2, 2], {json.dumps(ONE)[1:]}]</answer>',
            text([ONE] * 121),
            text([ONE], thought="x" * 30_000),
        ],
    )
    def test_what_exploits_the_published_rewards_wins_nothing(self, exploit: str) -> None:
        assert total("segzero", exploit, [ONE]) == 0

    def test_the_whole_image_does_not_win_the_points(self) -> None:
        whole = {"bbox_2d": [0, 0, 840, 840], "point_2d": [420, 420]}
        assert total("segzero", text([whole]), [ONE]) == 1

    def test_shouting_boxes_does_not_pay(self) -> None:
        grid = [
            {"bbox_2d": [x, y, x + 100, y + 100], "point_2d": [x + 50, y + 50]}
            for x in range(0, 800, 100)
            for y in range(0, 800, 100)
        ]
        assert total("segzero", text(grid), [ONE]) < total("segzero", text([OTHER]), [ONE]) + 0.05

    def test_masks_count_where_they_are_asked_for(self) -> None:
        mask = np.zeros((1, 840, 840), bool)
        mask[0, 100:200, 100:200] = True
        given = {"masks": [mask], "images": [TestStar.IMAGE], "segmenter": FilledBoxes()}
        half = text([{**ONE, "bbox_2d": [100, 100, 150, 200], "point_2d": [125, 150]}])
        assert parts("segzero-mask", half, [ONE], **given)["masks"] == pytest.approx(0.5, abs=1e-3)
        with pytest.raises(ValueError, match="segmenter"):
            parts("segzero-mask", half, [ONE])


class TestOfTheExperiment:
    def test_a_policy_that_is_not_to_think_answers_alone(self) -> None:
        alone = f"<answer>{json.dumps([ONE])}</answer>"
        assert total("segzero-answer", alone, [ONE]) == 4
        assert total("segzero-answer", text([ONE]), [ONE]) == 0
        assert total("segzero-answer", json.dumps([ONE]), [ONE]) == 0

    def test_soft_accuracy_grows_with_every_pixel(self) -> None:
        def at(shift: int) -> float:
            moved = {"bbox_2d": [100 + shift, 100, 200 + shift, 200], "point_2d": [150 + shift, 150]}
            return total("segzero-soft", text([moved]), [ONE])

        values = [at(shift) for shift in (0, 1, 5, 20, 60)]
        assert values[0] == 4
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 5

    def test_chance_knows_nothing_of_the_answer(self) -> None:
        right, wrong = text([ONE]), text([OTHER])
        batch = [right, wrong] * 500
        won = PROFILES["random"].score(batch, [json.dumps([ONE])] * 1000, seed=3)
        assert abs(np.mean(won[::2]) - np.mean(won[1::2])) < 0.1
        assert set(won) == {0.0, 1.0}
        assert won == PROFILES["random"].score(batch, [json.dumps([OTHER])] * 1000, seed=3)
        assert won != PROFILES["random"].score(batch, [json.dumps([ONE])] * 1000, seed=4)


@pytest.mark.parametrize("name", [n for n, p in PROFILES.items() if not p.needs_masks])
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_text_has_a_finite_reward_within_its_range(name: str, seed: int) -> None:
    profile = PROFILES[name]
    rng = np.random.default_rng(seed)
    for completion, solution in compare.pairs(rng, profile.solution, 3):
        (value,) = profile.score([completion], [solution])
        assert -0.5 <= value <= profile.maximum + 1e-9


@pytest.mark.parametrize("name", [n for n, p in PROFILES.items() if not p.needs_masks])
def test_a_megabyte_of_garbage_is_read_in_linear_time(name: str) -> None:
    for garbage in ("<think>" * 150_000, "{" * 1_000_000, "</think> " * 110_000 + "<answer>", "[" * 1_000_000):
        assert total(name, garbage, SINGLE if PROFILES[name].solution == "single" else [ONE]) <= 1


def test_the_order_of_a_batch_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    texts, solutions = zip(*compare.pairs(rng, "list", 50), strict=True)
    profile = PROFILES["segzero"]
    forward = profile.score(texts, solutions)
    assert profile.score(texts[::-1], solutions[::-1]) == forward[::-1]


def test_trainers_get_one_function_per_term_with_its_name() -> None:
    conversational = [[{"role": "assistant", "content": text([ONE])}], text([ONE])]
    functions = PROFILES["segzero"].functions(square=840)
    assert [f.__name__ for f in functions] == ["format", "accuracy", "length"]
    for function in functions:
        first, second = function(completions=conversational, solution=[json.dumps([ONE])] * 2, prompts=["", ""])
        assert first == second


class TestSpread:
    def test_a_term_that_is_always_won_is_named(self) -> None:
        groups = [[text([ONE]), text([OTHER])], [text([OTHER]), text([OTHER])]]
        found = {s.name: s for s in spread.spreads(PROFILES["segzero"], groups, [json.dumps([ONE])] * 2)}
        assert "always 1" in found["format"].warning
        assert not found["accuracy"].warning
        assert found["accuracy"].flat == 0.5
        assert found["accuracy"].mean == pytest.approx(0.75)
        assert "always 1" in spread.table(list(found.values()))

    def test_groups_need_solutions(self) -> None:
        with pytest.raises(ValueError, match="solution"):
            spread.spreads(PROFILES["segzero"], [["a"]], [])


class TestCompare:
    FILE = (
        "from training.rewards import PROFILES\n"
        "def same(t, s): return PROFILES['vision-reasoner'].score([t], [s])[0]\n"
        "def wrong(t, s): return same(t, s) + ('NaN' in t)\n"
        "def nothing(t, s): return float('nan')\n"
        "class Odd(Exception):\n"
        "    def __init__(self, a, b): super().__init__(a)\n"
        "def raises(t, s): raise Odd('not today', 2)\n"
    )

    @pytest.fixture
    def file(self, tmp_path: Any) -> Any:
        (tmp_path / "other.py").write_text(self.FILE)
        return tmp_path / "other.py"

    def test_equal_and_unequal_implementations(self, file: Any) -> None:
        same, values = compare.differences("vision-reasoner", f"{file}:same", 300, 0)
        assert not same
        assert values > 5
        assert compare.differences("vision-reasoner", f"{file}:wrong", 2000, 0)[0]

    @pytest.mark.parametrize("profile", [p.name for p in PROFILES.values() if p.needs_masks])
    def test_of_a_profile_with_masks_the_texts_are_compared(self, file: Any, profile: str) -> None:
        assert compare.differences(profile, f"{file}:nothing", 20, 0)[0]

    def test_two_processes_find_what_one_finds(self, file: Any, capsys: pytest.CaptureFixture[str]) -> None:
        count = 2 * compare.CHUNK + 300  # the last one is no whole chunk
        alone = compare.differences("vision-reasoner", f"{file}:wrong", count, 5)
        assert alone[0] and alone == compare.differences("vision-reasoner", f"{file}:wrong", count, 5, workers=2)
        texts = [d["text"] for d in alone[0]]
        assert texts != [d["text"] for d in compare.differences("vision-reasoner", f"{file}:wrong", count, 6)[0]]
        call = ["vision-reasoner", f"{file}:wrong", "--n", str(count), "--seed", "5", "--workers", "2"]
        assert compare.main(call) == 1
        told = capsys.readouterr()
        assert json.loads(told.out) == {"n": count, "differences": len(alone[0]), "different_sums": alone[1]}
        assert f"{count}/{count}" in told.err, "the progress bar"

    def test_every_chunk_has_pairs_of_its_own(self, file: Any) -> None:
        found, values = compare.differences("vision-reasoner", f"{file}:nothing", 2 * compare.CHUNK, 0)
        assert len(found) == 2 * compare.CHUNK and values == 1, "a NaN is equal to nothing"
        first, second = (
            {d["text"] for d in found[n * compare.CHUNK : (n + 1) * compare.CHUNK] if len(d["text"]) > 60}
            for n in (0, 1)
        )
        assert len(first) > 500 and len(second) > 500 and not first & second

    @pytest.mark.parametrize("workers", [1, 2])
    def test_what_the_other_raises_is_shown_with_its_pair(self, file: Any, workers: int) -> None:
        with pytest.raises(RuntimeError, match=r"the other raised Odd\('not today'\) at \[\""):
            compare.differences("vision-reasoner", f"{file}:raises", 1500, 0, workers=workers)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("import nothing_of_that_name", "cannot be run: ModuleNotFoundError"),
            ("def f(:", "cannot be run: SyntaxError"),
            ("f = 3", "has no function f"),
            ("import sys; sys.exit(0)", "cannot be run: SystemExit"),
            ("import sys\ndef f(text, solution): sys.exit(0)", "the other raised SystemExit"),
            ("def f(text): return 0.0", "the other raised TypeError"),
        ],
    )
    def test_a_file_that_does_not_do_is_told_in_a_sentence(
        self, text: str, said: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "mine.py").write_text(text)
        with pytest.raises(SystemExit, match="2"):
            compare.main(["seg-zero", f"{tmp_path / 'mine.py'}:f", "--n", "10"])
        assert said in capsys.readouterr().err.splitlines()[-1]

    @pytest.mark.parametrize("path", ["nothing.py:f", "no-colon", "setup.py:missing"])
    def test_a_wrong_path_is_said(self, path: str) -> None:
        if path.startswith("setup"):
            path = f"{compare.__file__}:missing"
        with pytest.raises(ValueError, match=r"expected|has no"):
            compare.load(path)
