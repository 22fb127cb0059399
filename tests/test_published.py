"""Answers, instructions and points as the published scripts take them, each by its name."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzero_ros.core import published
from segzero_ros.core.contract import Candidate, Generation, LoadedModel, Status
from segzero_ros.core.prompt import build_prompt
from segzero_ros.core.published import SCRIPTS, place, read_published, script_of
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import list_profiles, load_profile

LISTS = [name for name in SCRIPTS if name != "seg-zero"]
ONE = {"label": "mug", "bbox_2d": [1, 2, 30, 40], "point_2d": [5, 6]}
READ = Candidate((1, 2, 30, 40), ((5, 6),))

numbers = st.one_of(st.integers(-50, 2000), st.floats(), st.text(max_size=4), st.none(), st.booleans())
items = st.dictionaries(
    st.sampled_from(["bbox_2d", "point_2d", "bbox", "points_1", "points_2", "label", "x"]),
    st.one_of(st.lists(numbers, max_size=5), numbers),
)
good = st.fixed_dictionaries(
    {"bbox_2d": st.lists(st.integers(0, 840), min_size=4, max_size=5), "point_2d": st.lists(numbers, max_size=3)},
    optional={"label": st.text(max_size=3)},
)
texts = st.one_of(
    st.text(st.characters()),
    st.lists(st.one_of(items, good), max_size=3).map(lambda x: f"<think>a</think><answer>{json.dumps(x)}</answer>"),
    items.map(lambda x: f"<think>a</think><answer>{json.dumps(x)}</answer>"),
    st.lists(
        st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "[", "]", "{", "}", '"', json.dumps(ONE), "1"])
    ).map("".join),
)


def tagged(body: Any) -> str:
    return f"<think>t</think><answer>{body if isinstance(body, str) else json.dumps(body)}</answer>"


@settings(max_examples=600, deadline=None)
@given(texts)
def test_no_text_raises_in_any_script(text: str) -> None:
    for script in SCRIPTS:
        read = read_published(text, script)
        assert (read.status is Status.OK) == bool(read.candidates)
        placed = place(read.candidates, script, load_profile("star-8b"), 30, 40)
        assert len(placed) == len(read.candidates)
        if script == "star-qwen3":
            assert all(0 <= v < 40 for c in placed for v in (*(c.box or ()), *c.points[0]))


@settings(max_examples=600, deadline=None)
@given(texts)
def test_the_library_keeps_what_the_scripts_beside_it_refuse_and_changes_nothing_else(text: str) -> None:
    script, library = read_published(text, "seg-zero-multi-object"), read_published(text, "vision-reasoner")
    if script.status is not Status.PARSE_ERROR:
        assert (library.status, library.candidates) == (script.status, script.candidates)
    else:
        assert all(c.box and not c.points for c in library.candidates)


@settings(max_examples=600, deadline=None)
@given(texts)
def test_stars_evaluation_takes_nothing_that_its_inference_reads_otherwise(text: str) -> None:
    strict, lax = read_published(text, "star"), read_published(text, "star-inference")
    if strict.status is Status.OK:
        assert strict.candidates == lax.candidates
    if lax.status is Status.PARSE_ERROR and "[{}]" not in text.replace(" ", ""):
        assert strict.status is Status.PARSE_ERROR


pieces = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "{", "}", "<", "a", " ", "\n", "\x1c", "\u2003"]
)


@settings(max_examples=500, deadline=None)
@given(st.lists(pieces, max_size=14).map("".join))
def test_the_one_pass_searches_find_what_the_published_expressions_find(text: str) -> None:
    def group(expression: str, number: int, flags: int = 0) -> str | None:
        match = re.search(expression, text, flags)
        return match.group(number) if match else None

    assert published.plain_thinking(text) == group(r"<think>([^<]+)</think>", 1)
    assert published.first_braces(text) == group(r"{[^}]+}", 0)
    assert published.tagged_answer(text) == group(r"<answer>\s*(.*?)\s*</answer>", 1, re.DOTALL)
    assert published._tagged_thinking(text) == group(r"<think>\s*(.*?)\s*</think>", 1, re.DOTALL)


@pytest.mark.parametrize("piece", ["{", "[", "<answer>", "<think>", '{"bbox_2d": [', "\ud800", "}{", "'"])
def test_ten_megabytes_of_garbage_end_in_a_status(piece: str) -> None:
    text = piece * (10_000_000 // len(piece))
    for script in SCRIPTS:
        assert not read_published(text, script).candidates


@pytest.mark.parametrize("number", ["1e309", "-1.7e308", "NaN", "9" * 400])
def test_a_number_that_cannot_be_scaled_is_refused(number: str) -> None:
    single = tagged(f'{{"bbox": [1, 2, 3, {number}], "points_1": [1, 1], "points_2": [2, 2]}}')
    assert read_published(single, "seg-zero").status is Status.PARSE_ERROR
    several = tagged(f'[{{"label": "a", "bbox_2d": [1, 2, {number}, 4], "point_2d": [1, 2]}}]')
    for script in LISTS:
        assert read_published(several, script).status is Status.PARSE_ERROR, script


class TestVisionReasonersLibrary:
    @pytest.mark.parametrize("point", [{}, {"point_2d": [1]}, {"point_2d": [None, 2]}, {"point_2d": 3}])
    def test_one_point_that_is_not_read_takes_all_points_and_no_box(self, point: dict[str, Any]) -> None:
        text = tagged([ONE, {"bbox_2d": [7, 8, 9, 10], **point}])
        read = read_published(text, "vision-reasoner")
        assert [c.box for c in read.candidates] == [(1, 2, 30, 40), (7, 8, 9, 10)]
        assert [c.points for c in read.candidates] == [(), ()]
        assert read_published(text, "seg-zero-multi-object").status is Status.PARSE_ERROR

    def test_one_box_that_is_not_read_takes_all(self) -> None:
        assert read_published(tagged([ONE, {"point_2d": [1, 2]}]), "vision-reasoner").status is Status.PARSE_ERROR

    def test_the_thought_is_what_stands_before_the_answer(self) -> None:
        assert (
            read_published("  I see <b>it</b>. <answer>[]</answer>", "vision-reasoner").reasoning == "I see <b>it</b>."
        )


class TestStarsEvaluation:
    @pytest.mark.parametrize(
        "body", [[{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3]}], "[{", "null", "", "0", "[3]", "[{}, {}]"]
    )
    def test_punishes(self, body: Any) -> None:
        """A missing label, what no repair makes JSON, null, nothing, and what is no list of objects."""
        assert read_published(tagged(body), "star").status is Status.PARSE_ERROR
        assert read_published(tagged(body), "star-qwen3").status is Status.PARSE_ERROR or body == "[{}, {}]"

    @pytest.mark.parametrize("text", ["", "no tags", tagged("[]"), tagged("{}"), tagged("[{}]"), tagged("[[]]")])
    def test_takes_for_no_objects(self, text: str) -> None:
        assert read_published(text, "star").status is Status.NO_OBJECT

    @pytest.mark.parametrize("text", ["", tagged("{}"), tagged(""), tagged("[{"), tagged("null")])
    def test_the_inference_script_takes_the_unreadable_for_no_objects(self, text: str) -> None:
        assert read_published(text, "star-inference").status is Status.NO_OBJECT

    @pytest.mark.parametrize(
        "slip",
        [
            '[{"label": "a", "bbox_2d": [1, 2, 30, 40], "point_2d": [5, 6}]',
            '[{"label": "a", "bbox_2d": [1, 2, 30, 40], "point_2d": [5, 6]}}]',
            '[{"label": "a", "bbox_2d": [1, "2", 30, 40"], "point_2d": [5, 6]}]',
            '[{"label": "a", "bbox_2d": [1, 2, 30, 40]", "point_2d": [5, 6]}]',
        ],
    )
    def test_slips_are_repaired(self, slip: str) -> None:
        for script in ("star", "star-inference"):
            assert read_published(tagged(slip), script).candidates == (READ,)
        assert read_published(tagged(slip), "vision-reasoner").status is Status.PARSE_ERROR

    @pytest.mark.parametrize(
        ("box", "point", "expected"),
        [
            ([0, 0, 999, 999], [500, 500], ((0, 0, 100, 50), (50, 25))),  # bins
            ([0.0, 0.0, 1.0, 1.0], [0.5, 0.5], ((0, 0, 100, 50), (50, 25))),  # shares of the sides
            ([90, 40, 10, 20], [50, 1200], ((10, 20, 90, 40), (50, 50))),  # pixels, corners in order, clipped
            ([500, 500, 500, 500], [0, 0], ((50, 25, 51, 26), (0, 0))),  # a pixel at least
            ([999, 999, 999, 999], [0, 0], ((99, 49, 100, 50), (0, 0))),
        ],
    )
    def test_qwen3_answers_are_placed_by_their_largest_number(self, box: Any, point: Any, expected: Any) -> None:
        read = read_published(tagged([{"label": "a", "bbox_2d": box, "point_2d": point}]), "star-qwen3")
        (placed,) = place(read.candidates, "star-qwen3", load_profile("star-8b"), 51, 101)
        assert (placed.box, placed.points) == (expected[0], (expected[1],))

    def test_a_qwen3_box_without_a_point_is_given_the_corner(self) -> None:
        read = read_published(tagged([{"label": "a", "bbox_2d": [1, 2, 30, 40]}]), "star-qwen3")
        assert read.candidates == (Candidate((1, 2, 30, 40), ((0, 0),)),)


def test_every_profile_has_the_script_of_its_figures() -> None:
    known = {p.name: script_of(p) for p in list_profiles()}
    assert {k: known[k] for k in ("seg-zero", "vision-reasoner", "star", "star-8b")} == {
        "seg-zero": "seg-zero",
        "vision-reasoner": "vision-reasoner",
        "star": "star",
        "star-8b": "star-qwen3",
    }
    tokens = {name: script.max_new_tokens for name, script in SCRIPTS.items()}
    assert tokens.pop("vision-reasoner") == 2048 and set(tokens.values()) == {1024}


def test_an_answer_in_another_form_is_refused() -> None:
    assert read_published(tagged([ONE]), "").status is Status.PARSE_ERROR


def test_training_strips_full_stops_alone() -> None:
    profile = load_profile("vision-reasoner")
    said = 'The mug?!".'
    assert '"the mug" with' in build_prompt(profile, said)
    assert '"the mug?!"" with' in build_prompt(profile, said, training=True)
    seg_zero = load_profile("seg-zero")
    assert build_prompt(seg_zero, said) == build_prompt(seg_zero, said, training=True)


class Noting:
    """Reasoner and segmenter in one: says one text, and notes what it is given."""

    info = LoadedModel("noting", "", 0, "none", "none", 0)

    def __init__(self, said: str) -> None:
        self.said, self.prompts, self.given = said, list[str](), list[Any]()

    def generate(self, squares: Any, prompts: Any, **_: Any) -> list[Generation]:
        self.prompts += prompts
        return [Generation(self.said, 1, 1, False, False, 0.0)] * len(prompts)

    def encode(self, image: Any, **_: Any) -> Any:
        return image.shape[:2]

    def segment(self, features: Any, boxes: Any, points: Any, **_: Any) -> list[tuple[Any, float]]:
        self.given.append((boxes, points))
        return [(np.ones(features, bool), 0.5) for _ in boxes]


IMAGE = np.zeros((420, 840, 3), np.uint8)


def asked(said: Any, instruction: str, script: str, profile: str = "vision-reasoner") -> tuple[Noting, Any]:
    noting = Noting(tagged(said))
    pipeline = Pipeline(noting, noting, load_profile(profile))  # type: ignore[arg-type]
    pipeline.script = script
    return noting, pipeline.segment(IMAGE, instruction)


def test_the_instruction_is_taken_as_it_is() -> None:
    """White space behind the full stop keeps it from being stripped, as in the published code."""
    ours, _ = asked([ONE], "  The mug. ", "")
    theirs, _ = asked([ONE], "  The  mug. ", "vision-reasoner")
    assert '"the mug" with' in ours.prompts[0]
    assert '"  the  mug. " with' in theirs.prompts[0]
    _, refused = asked([ONE], "a" * 3000, "vision-reasoner")
    assert refused.status is Status.BAD_INSTRUCTION


def test_a_point_at_the_far_corner_stays_there() -> None:
    said = [{"bbox_2d": [1, 2, 30, 40], "point_2d": [840, 840]}]
    ours, _ = asked(said, "it", "")
    theirs, _ = asked(said, "it", "vision-reasoner")
    assert ours.given[0][1] == [((839, 419),)]
    assert theirs.given[0][1] == [((840, 420),)]


def test_boxes_without_points_count_and_have_no_mask() -> None:
    said = [{"bbox_2d": [1, 2, 30, 40]}]
    noting, result = asked(said, "it", "vision-reasoner")
    assert result.status is Status.OK and not noting.given
    assert [(i.prompt_box, i.area) for i in result.instances] == [((1, 1, 30, 20), 0)]
    _, ours = asked(said, "it", "")
    assert ours.instances[0].area, "the node makes a mask of the box alone"
