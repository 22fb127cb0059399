"""Words that mean nothing are put among an instruction's in training; what it asks stays to be read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.tabletop.instructions import KINDS, Item
from training.data.tabletop.scene import COLORS
from training.data.tabletop.store import Thing
from training.embedded.batch import MEANT as HEAVY
from training.embedded.batch import Instructions
from training.embedded.unheard import unheard

MEANT = (
    "the red duck",
    "the brick that is not blue",
    "the leftmost soccer ball",
    "all the green objects",
    "the mug in front of the white bunny",
    "the ball without a pattern on the left side of the bear",
    "any cube except the black one",
)
THINGS = [
    Thing(1, "mug", "red", (20, 50, 60, 90), 900, 1.0, (40, 70)),
    Thing(2, "duck", "blue", (120, 50, 160, 90), 900, 1.0, (140, 70)),
]
IDLE = {"the", "a", "that", "is", "one"}


def is_subsequence(few: list[str], many: list[str]) -> bool:
    rest = iter(many)
    return all(word in rest for word in few)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(MEANT))
def test_what_an_instruction_means_stays_in_its_order(seed: int, text: str) -> None:
    said = unheard(np.random.default_rng(seed), Item("color", f"please find {text}", "", ())).split()
    assert is_subsequence([w for w in text.split() if w not in IDLE], said)
    assert not (set(said) - set(text.split())) & {*COLORS, "not", "left", "all", "mug"}, (
        "nothing is said that is not meant"
    )


@given(st.integers(0, 2**32))
def test_of_a_function_one_word_may_go_and_no_other_changes(seed: int) -> None:
    words = ["what", "would", "a", "child", "hug", "at", "night"]
    said = unheard(np.random.default_rng(seed), Item("function", " ".join(words), "", ())).split()
    assert any(is_subsequence(words[:n] + words[n + 1 :], said) for n in range(len(words)))


def test_many_say_other_words_and_the_same_seed_the_same() -> None:
    item = Item("color", MEANT[0], "", ())
    said = [unheard(np.random.default_rng(seed), item) for seed in (*range(200), 0)]
    assert len(set(said)) > 150 and said[0] == said[200]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_where_only_what_is_meant_is_learnt_the_answer_is_left_out(share: float) -> None:
    draw, rng = Instructions(0.3, KINDS, reworded=0.7, unheard=0.4, understood=share), np.random.default_rng(0)
    found = [q for q in (draw(rng, THINGS, True) for _ in range(80)) if q]
    assert len(found) > 40
    for query in found:
        written = "".join(text for text, _, _ in query.pieces)
        meant = written.partition(".")[0] + "."
        assert meant.startswith("<think>The target is ")
        assert written == meant if share else written.endswith("</answer><|im_end|>")
        words = [text for text, _, weight in query.pieces if weight == HEAVY]
        assert "<think>The target is" + "".join(words) == meant, "each word of what is meant weighs most"


def test_validation_is_asked_in_plain_words_with_whole_answers() -> None:
    draw, rng = Instructions(0.3, KINDS, reworded=1.0, unheard=1.0, understood=1.0), np.random.default_rng(0)
    plain, again = Instructions(0.3), np.random.default_rng(0)
    for _ in range(40):
        assert draw(rng, THINGS, False) == plain(again, THINGS, False)
