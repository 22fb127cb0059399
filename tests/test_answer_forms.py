"""The published forms of answers: each is read to the right pixels, and no text in any form raises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzero_ros.core.answer import parse_answer
from segzero_ros.core.contract import Answer, Candidate, Status
from segzero_ros.core.geometry import to_source
from segzero_ros.core.profile import Profile
from segzero_ros.core.published import read_published, script_of
from segzero_ros.models.reasoner_transformers import load_reasoner
from segzero_ros.profiles import load_profile
from tests import tiny_models

WIDTH, HEIGHT = 2000, 1000  # of the picture that all answers below are about
BASE = replace(load_profile("vision-reasoner"), prompt="Where is {question}?", sam_prompts="both")
THOUSANDTHS = replace(BASE, coordinates="thousandths")
GEMINI = replace(THOUSANDTHS, order="yx")
GLM = replace(THOUSANDTHS, reader="glm")
REX = replace(BASE, reader="rex-omni", coordinates="bins")
MOLMO_1 = replace(BASE, reader="molmo", coordinates="percent", sam_prompts="points")
MOLMO_2 = replace(MOLMO_1, coordinates="thousandths")


def pixels(text: str, profile: Profile, width: int = WIDTH, height: int = HEIGHT) -> list[Candidate]:
    return [to_source(c, profile, height, width) for c in parse_answer(text, profile).candidates]


def rex(content: str, label: str = "mug") -> str:
    return f"<|object_ref_start|>{label}<|object_ref_end|><|box_start|>{content}<|box_end|>"


WHOLE, MIDDLE = (0, 0, 2000, 1000), (500, 250, 1500, 750)
# Profile, text, and boxes, points and labels in pixels of the picture.
FORMS: dict[str, tuple[Profile, str, list[Candidate]]] = {
    "VisionReasoner": (
        BASE,
        '<think>a</think><answer>[{"bbox_2d": [0, 0, 840, 840], "point_2d": [420, 420]}]</answer>',
        [Candidate(WHOLE, ((1000, 500),))],
    ),
    "Qwen3-VL, fenced": (
        THOUSANDTHS,
        '```json\n[\n\t{"bbox_2d": [0, 0, 1000, 1000], "label": "table"},\n'
        '\t{"bbox_2d": [250, 250, 750, 750], "label": "mug"}\n]\n```',
        [Candidate(WHOLE, (), "table"), Candidate(MIDDLE, (), "mug")],
    ),
    "Qwen3-VL, fenced inside tags": (
        THOUSANDTHS,
        '<think>There.</think>\n<answer>```json\n[{"bbox_2d": [250, 250, 750, 750], "label": "mug"}]\n```</answer>',
        [Candidate(MIDDLE, (), "mug")],
    ),
    "Cosmos-Reason2, a point": (
        THOUSANDTHS,
        '<think>\nThe mug is left.\n</think>\n\n{"point_2d": [250, 750], "label": "mug"}',
        [Candidate(None, ((500, 750),), "mug")],
    ),
    "Gemini Robotics-ER, points": (
        GEMINI,
        '[{"point": [0, 1000], "label": "corner"}, {"point": [750, 250], "label": "mug"}]',
        [Candidate(None, ((2000, 0),), "corner"), Candidate(None, ((500, 750),), "mug")],
    ),
    "Gemini Robotics-ER, boxes": (
        GEMINI,
        '```json\n[{"box_2d": [0, 500, 250, 1000], "label": "mug"}]\n```',
        [Candidate((1000, 0, 2000, 250), (), "mug")],
    ),
    "GLM-4.5V": (
        GLM,
        "<think>Two of them, [1, 2, 3, 4] perhaps.</think>They are at "
        "<|begin_of_box|>[[0, 0, 1000, 1000], [250,250,750,750]]<|end_of_box|>.",
        [Candidate(WHOLE, ()), Candidate(MIDDLE, ())],
    ),
    "GLM-4.1V, inside tags": (
        GLM,
        "<think>t</think><answer><|begin_of_box|>(250,250,750,750)<|end_of_box|></answer>",
        [Candidate(MIDDLE, ())],
    ),
    "GLM-4.6V, JSON in the box": (
        GLM,
        '<|begin_of_box|>[{"label": "mug", "box_2d": [[250, 250, 750, 750]]}]<|end_of_box|>',
        [Candidate(MIDDLE, (), "mug")],
    ),
    "GLM-4.5V, its tags dropped by a server": (GLM, "At [[250, 250, 750, 750]].", [Candidate(MIDDLE, ())]),
    "Rex-Omni, boxes of two labels": (
        REX,
        f"{rex('<0><0><999><999>,<0><0><333><666>', 'table')}, {rex('<666><333><999><999>')}",
        [
            Candidate(WHOLE, (), "table"),
            Candidate((0, 0, 667, 667), (), "table"),
            Candidate((1333, 333, 2000, 1000), (), "mug"),
        ],
    ),
    "Rex-Omni, points": (
        REX,
        rex("<0><999>, <333><666>"),
        [Candidate(None, ((0, 1000),), "mug"), Candidate(None, ((667, 667),), "mug")],
    ),
    "Molmo 1, one point": (
        MOLMO_1,
        ' <point x="10.1" y="20.2" alt="red mug">the mug</point>',
        [Candidate(None, ((202, 202),), "the mug")],
    ),
    "Molmo 1, several points": (
        MOLMO_1,
        '<points x1="0.0" y1="100.0" x2="50.0" y2="25.5" alt="mugs">mugs</points> and <point x="5" y="5" alt="cat"/>',
        [
            Candidate(None, ((0, 1000),), "mugs"),
            Candidate(None, ((1000, 255),), "mugs"),
            Candidate(None, ((100, 50),), "cat"),
        ],
    ),
    "Molmo 2": (
        MOLMO_2,
        'Counting the <points coords="1 1 990 800">label</points> shows a total of 1.',
        [Candidate(None, ((1980, 800),), "label")],
    ),
    "Molmo 2, several ids and several objects": (
        MOLMO_2,
        '<points coords="1 1 000 1000 2 911 800">mug</points><points label="cat" coords="1 1 500 500"/>',
        [
            Candidate(None, ((0, 1000),), "mug"),
            Candidate(None, ((1822, 800),), "mug"),
            Candidate(None, ((1000, 500),), "cat"),
        ],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_published_form_is_read_to_its_pixels_without_a_complaint(name: str) -> None:
    profile, text, expected = FORMS[name]
    read = parse_answer(text, profile)
    assert (read.status, pixels(text, profile)) == (Status.OK, expected)
    assert [r for r in read.reasons if "no box" not in r] == []


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        (BASE, "[]"),
        (GEMINI, "```json\n[]\n```"),
        (GLM, "<|begin_of_box|>[]<|end_of_box|>"),
        (GLM, "<think>[1,2,3,4]</think><|begin_of_box|>None<|end_of_box|>"),
        (REX, rex("None", "unicorn")),
        (MOLMO_1, " There are none."),
        (MOLMO_2, "There are none."),
    ],
)
def test_in_every_form_a_model_can_say_that_there_is_nothing(profile: Profile, text: str) -> None:
    read = parse_answer(text, profile)
    assert (read.status, read.reasons) == (Status.NO_OBJECT, ())


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        (MOLMO_2, '<point x="10.1" y="20.2" alt="mug">mug</point>'),
        (MOLMO_1, '<points coords="1 1 990 800">mug</points>'),
        (MOLMO_2, '<points coords="2 1 990 800">of the second image</points>'),
        (MOLMO_2, '<points coords="1 1 990">one number is missing</points>'),
        (REX, "<|object_ref_start|>mug<|object_ref_end|><|box_start|><10><20>"),
        (REX, "mug<10><20><300><400>"),
        (REX, rex("<1><2><3><4><5><6>")),
        (REX, rex("")),
        (GLM, "<|begin_of_box|>a red mug<|end_of_box|>"),
        (GLM, "The mug (and the spoon, the fork) stand at (3, 4)."),
        (GLM, "<|begin_of_box|>[[1, 2, 3, 4"),
        (BASE, "<|begin_of_box|>[[1, 2, 3, 4]]<|end_of_box|>"),
    ],
)
def test_another_form_or_half_of_one_is_a_parse_error_with_a_reason(profile: Profile, text: str) -> None:
    read = parse_answer(text, profile)
    assert read.status is Status.PARSE_ERROR and read.reasons


@pytest.mark.parametrize(
    ("coordinates", "far", "middle"),
    [("pixels", 840, 420), ("thousandths", 1000, 500), ("bins", 999, 499.5), ("percent", 100, 50), ("unit", 1, 0.5)],
)
def test_the_same_place_in_every_scale_is_the_same_pixel(coordinates: Any, far: float, middle: float) -> None:
    profile = replace(BASE, coordinates=coordinates)
    text = f'[{{"bbox_2d": [0, {middle}, {middle}, {far}], "point_2d": [{far}, 0]}}]'
    assert pixels(text, profile, 640, 480) == [Candidate((0, 240, 320, 480), ((640, 0),))]
    turned = f'[{{"bbox_2d": [{middle}, 0, {far}, {middle}], "point_2d": [0, {far}]}}]'
    assert pixels(turned, replace(profile, order="yx"), 640, 480) == pixels(text, profile, 640, 480)


@pytest.mark.parametrize("value", [0, 1, 333, 500, 998, 999])
def test_star_on_qwen3_ends_at_the_last_pixel_as_its_script_computes_it(value: int) -> None:
    profile = load_profile("star-8b")
    text = f'<answer>[{{"bbox_2d": [0, 0, 999, 999], "point_2d": [{value}, {value}]}}]</answer>'
    size = (640, 481)
    point = tuple(round(float(value) * (side - 1) / 999.0) for side in size)
    assert pixels(text, profile, *size) == [Candidate((0, 0, 639, 480), (point,))]  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", [GEMINI, GLM, REX, MOLMO_1])
def test_where_no_published_parser_reads_the_form_a_published_reading_is_refused(profile: Profile) -> None:
    read = read_published('<answer>[{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3]}]</answer>', script_of(profile))
    assert read.status is Status.PARSE_ERROR and "no published parser" in read.reasons[0]


class TestAThoughtThatThePromptOpened:
    PROFILE = replace(THOUSANDTHS, thinking="opened")
    DRAFT, FINAL = '{"bbox_2d": [1, 2, 3, 4]}', '{"bbox_2d": [250, 250, 750, 750]}'

    def read(self, text: str, truncated: bool = False) -> Answer:
        return parse_answer(text, self.PROFILE, truncated=truncated)

    def test_is_what_stands_before_its_end(self) -> None:
        read = self.read(f"Perhaps {self.DRAFT}, no.\n</think>\n\n[{self.FINAL}]")
        assert read.reasons == () and read.reasoning == f"Perhaps {self.DRAFT}, no."
        assert [c.box for c in read.candidates] == [(250, 250, 750, 750)]

    def test_is_never_searched_for_an_answer(self) -> None:
        assert self.read(f"Perhaps {self.DRAFT}.</think>I see no mug.").status is Status.PARSE_ERROR
        cut = self.read(f"Perhaps {self.DRAFT}, or", truncated=True)
        assert cut.status is Status.PARSE_ERROR and "the thought did not end" in cut.reasons
        assert cut.reasoning.startswith("Perhaps")

    def test_ends_also_where_the_answer_begins(self) -> None:
        read = self.read(f"Perhaps {self.DRAFT}. <answer>[{self.FINAL}]</answer>")
        assert [c.box for c in read.candidates] == [(250, 250, 750, 750)] and read.reasoning.startswith("Perhaps")

    def test_may_be_opened_again_by_the_model_or_taken_away_by_a_server(self) -> None:
        again = self.read(f"<think>Left.</think>[{self.FINAL}]")
        assert again.reasoning == "Left." and again.status is Status.OK
        bare = self.read(f"[{self.FINAL}]")
        assert bare.status is Status.OK and bare.reasons == ("</think> is missing",)


PIECES = st.sampled_from(
    [
        *(
            "<|begin_of_box|>",
            "<|end_of_box|>",
            "<|box_start|>",
            "<|box_end|>",
            "<|object_ref_start|>",
            "<10>",
            "<",
            ">",
        ),
        *(
            "<|object_ref_end|>",
            '<points coords="',
            '<point x="',
            '" y="',
            '">',
            "</points>",
            "1 1 990 800",
            "\t2 ",
            "/>",
        ),
        *(
            "[",
            "]",
            "(",
            ")",
            ",",
            "{",
            "}",
            "1e999",
            "-5",
            "99999999999999999999",
            "None",
            "</think>",
            "<answer>",
            '"',
        ),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A published text with pieces cut out, doubled or put in."""
    text = draw(st.sampled_from([text for _, text, _ in FORMS.values()]))
    for _ in range(draw(st.integers(0, 4))):
        i, j = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        text = text[:i] + draw(st.one_of(st.just(""), st.just(text[i:j] * 2), PIECES, st.text(max_size=3))) + text[j:]
    return text


@settings(max_examples=500, deadline=None)
@given(st.one_of(mutated(), st.text(), st.lists(PIECES, max_size=30).map("".join)), st.booleans())
def test_no_text_in_any_form_raises_and_what_is_found_is_inside_the_picture(text: str, truncated: bool) -> None:
    for base in (BASE, GEMINI, GLM, REX, MOLMO_1, MOLMO_2):
        for profile in (base, replace(base, thinking="opened")):
            read = parse_answer(text, profile, truncated=truncated)
            assert (read.status is Status.OK) == bool(read.candidates)
            for c in read.candidates:
                inside = [0 <= v <= profile.extent for v in (*(c.box or ()), *(v for p in c.points for v in p))]
                assert inside and all(inside) and len(c.label) <= 80


@pytest.mark.parametrize("profile", [GLM, REX, MOLMO_1, MOLMO_2], ids=lambda p: f"{p.reader}-{p.coordinates}")
@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "[[1,2,3",
        "<",
        "<1>",
        "<points ",
        '<points coords="',
        '<point x="',
        "<|box_start|>",
        "<|begin_of_box|>",
        "1 ",
    ],
)
def test_ten_megabytes_in_any_form_end_in_a_status(piece: str, profile: Profile) -> None:
    text = piece * (10_000_000 // len(piece))
    assert parse_answer(text, profile).status is Status.PARSE_ERROR


@pytest.mark.parametrize(("profile", "kept"), [(REX, True), (BASE, False)])
def test_tags_that_are_special_tokens_stay_for_the_reader_that_needs_them(
    tmp_path: Path, profile: Profile, kept: bool
) -> None:
    folder = tiny_models.save_reasoner(tmp_path)
    reasoner = load_reasoner(replace(profile, square=224), str(folder))
    tags = ["<|box_start|>", "<|box_end|>", "<|object_ref_start|>", "<|object_ref_end|>"]  # special in Qwen's tokenizer
    reasoner.tokenizer.add_special_tokens({"additional_special_tokens": tags})
    reasoner.tokenizer.add_tokens(["<10>", "<999>"])
    text = reasoner._decode(reasoner.tokenizer.encode(rex("<10><10><999><999>"), add_special_tokens=False))
    assert text.replace(" ", "") == (rex("<10><10><999><999>") if kept else "mug<10><10><999><999>")


def test_the_model_s_turn_begins_as_the_profile_says(tmp_path: Path) -> None:
    folder = tiny_models.save_reasoner(tmp_path)
    ends = {}
    for thinking in ("written", "opened", "closed"):
        profile = replace(load_profile("demo"), thinking=thinking)  # type: ignore[arg-type]
        reasoner = load_reasoner(profile, str(folder))
        ends[thinking] = reasoner._chat()[1]
        written = reasoner._encode(ends[thinking])
        assert reasoner.prompt_ids("the mug")[-len(written) :] == written
    assert ends == {
        "written": "<|im_end|>\n<|im_start|>assistant\n",
        "opened": "<|im_end|>\n<|im_start|>assistant\n<think>\n",
        "closed": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    }


@pytest.mark.parametrize(
    "text",
    [
        '[{"bbox_2d": [10, 20, 300, 400], "label": "mug {big}"}]',
        """[{'bbox_2d': [10, 20, 300, 400], 'label': "mug {it's}"}]""",
        '{"note": "a } b { c", "bbox_2d": [10, 20, 300, 400], "label": "mug"}',
    ],
)
def test_words_may_hold_braces_and_apostrophes(text: str) -> None:
    answer = parse_answer(f"<answer>{text}</answer>", BASE)
    assert [c.box for c in answer.candidates] == [(10, 20, 300, 400)], answer.reasons


@pytest.mark.parametrize("text", ['{"objects": []}', "[]", "[ ]"])
def test_nothing_may_be_said_in_several_ways(text: str) -> None:
    assert parse_answer(f"<answer>{text}</answer>", BASE).status is Status.NO_OBJECT
