"""The core as a specification: published prompts, hostile answers, squares and source pixels, masks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzero_ros.core.answer import parse_answer
from segzero_ros.core.contract import Candidate, SegzeroError, Status
from segzero_ros.core.geometry import (
    boxes_iou_matrix,
    label_image,
    mask_box,
    pack,
    rle_decode,
    rle_encode,
    square_image,
    to_source,
)
from segzero_ros.core.prompt import build_prompt, validate_instruction
from segzero_ros.core.published import read_published
from segzero_ros.profiles import ProfileError, list_profiles, load_profile

LIST, SINGLE, STAR = (load_profile(name) for name in ("vision-reasoner", "seg-zero", "star"))

# sha256 of the published prompts, compared with the repositories' own strings (see prompt.py) for "the red mug".
PUBLISHED = {
    "seg-zero": "7e7dac0e84ce5e9dd6b51fb506f490bf30733d69696d34f8affc634f115edfac",
    "vision-reasoner": "269457ed87152655c4e2446f3b4e7f1580fdb8c140401163c1c8ad2fb17b796c",
    "star": "2471345d50167375c4797ac9c5bd468435537634e204992eb93ae1e22ffc7efb",
    "star-stage-1": "e3482cb08d05d4195790fb8b9556bd40f98a54aee4d71cc9a83d20ca7834e353",
    "star-stage-2": "e3aeac928a1c3dd34ebfb7d94254dab76771460c7adc83a348c3c4f7c52e2d4c",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_prompts_are_bit_exact(name: str) -> None:
    profile = load_profile(name.partition("-stage")[0])  # what a stage is trained with has no profile of its own
    prompt = build_prompt(replace(profile, prompt=name) if "-stage" in name else profile, "The red mug.")
    assert hashlib.sha256(prompt.encode()).hexdigest() == PUBLISHED[name]


def test_there_are_the_named_profiles() -> None:
    assert {"seg-zero", "vision-reasoner", "star", "qwen3-vl", "demo"} <= {p.name for p in list_profiles()}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt: x\nreasoner: a\nsegmenter: b\ndescription: d\nsqare: 3", "unknown sqare"),
        ("prompt: x\nreasoner: a\nsegmenter: b\ndescription: d\nschema: both", "one of single, list"),
        ("prompt: x\nreasoner: a\nsegmenter: b\ndescription: d\nsquare: wide", "must be int"),
        ("reasoner: a\nsegmenter: b", "missing"),
        ("[1, 2", "not valid YAML"),
    ],
)
def test_a_wrong_profile_is_refused_with_a_sentence(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ProfileError, match=said):
        load_profile(str(tmp_path / "mine.yaml"))


def test_an_instruction_becomes_one_line() -> None:
    assert validate_instruction(" the\n red\x00\tmug ") == "the red mug"
    for bad in ("", " \n\t", "\x00\x01", "x" * 2001, "x" * 1_000_000):
        with pytest.raises(SegzeroError) as error:
            validate_instruction(bad)
        assert error.value.status is Status.BAD_INSTRUCTION
    for wrong in (None, 5, b"the mug"):
        with pytest.raises(SegzeroError, match="the instruction is a text, not a"):
            validate_instruction(wrong)  # type: ignore[arg-type]


GOOD = '{"bbox_2d": [10, 20, 110, 220], "point_2d": [60, 120]}'


@pytest.mark.parametrize(
    ("text", "status", "count"),
    [
        (f"<think>t</think><answer>[{GOOD}]</answer>", Status.OK, 1),
        (f"<think>t</think><answer>```json\n[{GOOD}]\n```</answer>", Status.OK, 1),
        (f"<think>t</think><answer>[{GOOD}]</answer> and so on", Status.OK, 1),
        (f"[{GOOD}]", Status.OK, 1),
        (f"<think>{GOOD}</think>", Status.OK, 1),
        (f"<think>t</think><answer>[{GOOD}".replace('"', "'"), Status.OK, 1),
        (f"<answer><answer>[{GOOD}]</answer></answer>", Status.OK, 1),
        (f'<answer>[{GOOD}, {{"bbox_2d": [1, 2]}}, {GOOD}]</answer>', Status.OK, 2),
        (f'<answer>[{GOOD}, {{"bbox_2d": [1, 2, "a', Status.OK, 1),
        ('<answer>[{"bbox_2d": ["1", "2.5", 1e2, 300]}]</answer>', Status.OK, 1),
        ("<think>nothing is there</think><answer>[]</answer>", Status.NO_OBJECT, 0),
        ('<answer>[{"bbox_2d": [NaN, 1, 2, 3]}]</answer>', Status.PARSE_ERROR, 0),
        ('<answer>[{"bbox_2d": [1, 1, 2, 1e999]}]</answer>', Status.PARSE_ERROR, 0),
        ('<answer>[{"bbox_2d": [-9, -9, -1, -1]}]</answer>', Status.PARSE_ERROR, 0),
        ("", Status.PARSE_ERROR, 0),
        ("<answer></answer>", Status.PARSE_ERROR, 0),
    ],
)
def test_what_can_be_understood_is_taken(text: str, status: Status, count: int) -> None:
    read = parse_answer(text, LIST)
    assert (read.status, len(read.candidates)) == (status, count)
    assert read.reasons or status is not Status.PARSE_ERROR


DRAFT = f"<think>perhaps {GOOD}, but the mug is red"


@pytest.mark.parametrize(
    ("text", "truncated", "reason"),
    [
        (DRAFT, True, "the thought did not end"),
        (f"Sure. {DRAFT}", True, "the thought did not end"),
        (f"<think>a</think>{DRAFT}", True, "the thought did not end"),
        (f"<think>perhaps <answer>[{GOOD}]</answer>, but no</think>", True, "the token limit cut the text off"),
        ("<think>maybe <answer>[]</answer>, no: it is there</think>", False, "the text holds no answer"),
        (f"{DRAFT}</think>", True, "the token limit cut the text off"),
        (f"{DRAFT}</think><answer>[", True, "the token limit cut the text off"),
        ("<think>were there none, [], I would say so</think>", False, "the text holds no answer"),
        ("<think>were there none, []</think><answer>I do not know</answer>", False, "the text holds no answer"),
        ("<think>were there none, []", False, "the thought did not end"),
        ("[] is what I would write</think><answer></answer>", False, "the text holds no answer"),
    ],
)
def test_what_a_thought_weighs_is_no_answer(text: str, truncated: bool, reason: str) -> None:
    read = parse_answer(text, LIST, truncated=truncated)
    assert read.status is Status.PARSE_ERROR and reason in read.reasons


def test_an_object_that_stands_in_the_thought_alone_is_taken_and_said() -> None:
    asked = f"<think>perhaps <answer>[{GOOD}]</answer>, no</think><answer>I do not know</answer>"
    for text, reason in (
        (DRAFT, "the thought did not end"),
        (f"{DRAFT}</think>", "found outside its tags"),
        (asked, "found outside its tags"),
    ):
        read = parse_answer(text, LIST)
        assert read.status is Status.OK and any(reason in r for r in read.reasons)


def test_inverted_and_outlying_boxes_are_put_right_and_said() -> None:
    read = parse_answer('<answer>[{"bbox_2d": [300, 50, 100, 2000], "point_2d": [-5, 9]}]</answer>', LIST)
    assert read.candidates[0].box == (100, 50, 300, 840) and read.candidates[0].points == ((0, 9),)
    assert len(read.reasons) >= 3


@pytest.mark.parametrize("piece", ["{", "[", "<answer>", "<think>", '{"bbox_2d": [', "\ud800", "}{", "'"])
def test_ten_megabytes_of_garbage_end_in_a_status(piece: str) -> None:
    text = piece * (10_000_000 // len(piece))
    for profile in (LIST, SINGLE):
        assert parse_answer(text, profile).status is Status.PARSE_ERROR


numbers = st.one_of(st.integers(-50, 2000), st.floats(), st.text(max_size=4), st.none())
items = st.dictionaries(
    st.sampled_from(["bbox_2d", "point_2d", "bbox", "points_1", "points_2", "label", "x"]),
    st.one_of(st.lists(numbers, max_size=5), numbers),
)
texts = st.one_of(
    st.text(st.characters()),
    st.lists(items, max_size=3).map(lambda x: f"<think>a</think><answer>{json.dumps(x)}</answer>"),
    items.map(lambda x: f"<think>a</think><answer>{json.dumps(x)}</answer>"),
    st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "[", "]", "{", "}", '"', GOOD, "1"])).map(
        "".join
    ),
)


@settings(max_examples=600, deadline=None)
@given(texts)
def test_no_text_raises_and_every_box_is_a_box(text: str) -> None:
    for profile in (LIST, SINGLE, STAR):
        read = parse_answer(text, profile)
        assert (read.status is Status.OK) == bool(read.candidates)
        for c in read.candidates:
            if c.box:
                assert 0 <= c.box[0] < c.box[2] <= 840 and 0 <= c.box[1] < c.box[3] <= 840
            assert all(0 <= v <= 840 for p in c.points for v in p)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_what_the_published_parser_takes_we_take_too(text: str) -> None:
    strict = read_published(text, "seg-zero")
    inside = all(0 <= v <= 840 for c in strict.candidates for v in (*(c.box or ()), *(x for p in c.points for x in p)))
    ordered = all(c.box and c.box[0] < c.box[2] and c.box[1] < c.box[3] for c in strict.candidates)
    if strict.status is Status.OK and inside and ordered and "</answer>" not in text:
        assert parse_answer(text, SINGLE).status is Status.OK


@pytest.mark.parametrize(
    "slip",
    [
        '[{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3}]',
        '[{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3}}]',
        '[{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3]}}]',
        '[{"bbox_2d": [1, "2", 3, 4"], "point_2d": [2, 3]}]',
        '[{"bbox_2d": [1, 2, 3, 4]", "point_2d": [2, 3]}]',
    ],
)
def test_slips_in_arrays_are_repaired_as_star_repairs_them(slip: str) -> None:
    text = f"<think>t</think><answer>{slip}</answer>"
    assert parse_answer(text, STAR).candidates == (Candidate((1, 2, 3, 4), ((2, 3),)),)
    assert parse_answer(text, LIST).status is Status.OK


def test_published_rounding() -> None:
    single = to_source(Candidate((10.9, 20, 110, 220), ((35, 35),)), SINGLE, 480, 640)
    assert single.box == (round(10 * 640 / 840), round(20 * 480 / 840), round(110 * 640 / 840), round(220 * 480 / 840))
    several = to_source(Candidate((10, 20, 110, 220), ()), LIST, 480, 640)
    assert several.box == tuple(
        int(v * f + 0.5) for v, f in zip((10, 20, 110, 220), (640 / 840, 480 / 840) * 2, strict=True)
    )


def test_a_square_is_a_square() -> None:
    assert square_image(np.zeros((30, 70, 3), np.uint8), 56).shape == (56, 56, 3)


masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda s: st.lists(st.booleans(), min_size=s[0] * s[1], max_size=s[0] * s[1]).map(lambda x: np.array(x).reshape(s))
)


@given(masks)
def test_run_lengths_come_back(mask: np.ndarray) -> None:
    counts = rle_encode(mask)
    assert np.array_equal(rle_decode(counts, *mask.shape), mask)
    runs, value = [], False
    flat = [bool(v) for column in mask.T for v in column]
    while flat:
        n = next((i for i, v in enumerate(flat) if v != value), len(flat))
        runs.append(n)
        flat, value = flat[n:], not value
    assert counts == runs
    with pytest.raises(ValueError, match="run lengths"):
        rle_decode([*counts, 1], *mask.shape)


@given(masks)
def test_a_masks_box_holds_it_tightly(mask: np.ndarray) -> None:
    box = mask_box(mask)
    if box is None:
        assert not mask.any()
        return
    x1, y1, x2, y2 = map(int, box)
    assert mask[y1:y2, x1:x2].sum() == mask.sum()
    assert mask[y1, x1:x2].any() and mask[y2 - 1, x1:x2].any() and mask[y1:y2, x1].any() and mask[y1:y2, x2 - 1].any()


coordinate = st.integers(0, 20)
boxes = st.tuples(coordinate, coordinate, coordinate, coordinate)


@given(st.lists(boxes, max_size=4), st.lists(boxes, max_size=4))
def test_iou_counts_pixels(a: list, b: list) -> None:
    def pixels(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    matrix = boxes_iou_matrix(np.array(a).reshape(-1, 4), np.array(b).reshape(-1, 4))
    assert matrix.shape == (len(a), len(b))
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            union = len(pixels(p) | pixels(q))
            assert matrix[i, j] == pytest.approx(len(pixels(p) & pixels(q)) / union if union else 0.0)


def test_where_masks_overlap_the_higher_score_wins_and_ties_go_to_the_earlier() -> None:
    a, b, c = (np.zeros((1, 4), bool) for _ in range(3))
    a[0, :2] = b[0, 1:3] = c[0, 2:] = True
    assert label_image([pack(m) for m in (a, b, c)], [0.5, 0.9, 0.9], 1, 4).tolist() == [[1, 2, 2, 3]]
