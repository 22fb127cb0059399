"""Other words for the same question: training's and the held-out ones never meet; neither changes what is asked."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from training.data.tabletop import held_out_wordings, instructions
from training.data.tabletop.heard_wordings import TRAINING
from training.data.tabletop.held_out_wordings import BLIND, HELD_OUT
from training.data.tabletop.instructions import KINDS, Item, answer, prompt_text, write
from training.data.tabletop.store import Scenes, Thing, render_shard
from training.data.tabletop.wordings import Wordings, reword
from training.embedded.tokenizer import build_tokenizer
from training.evaluation.evaluate import read_cases

NEGATED = re.compile(
    r"\b(not|isn't|ain't|doesn't|no|non|never|except|but|unless|excluding|without|instead of)\b"
    r"|\b(other than|other color|another color|different from)\b"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tabletop")
    (folder / "test").mkdir()
    render_shard(folder / "test", "test", 0, 12, depth=False)
    return folder


@pytest.fixture(scope="module")
def items(root: Path) -> list[Item]:
    scenes, rng = Scenes(root / "test"), np.random.default_rng(0)
    found = (write(rng, scenes.things(n % 12), [KINDS[n % 8]], float(n % 5 == 0)) for n in range(1600))
    return [item for item in found if item]


def shapes(words: Wordings) -> set[str]:
    """Frames and questions as the model reads them."""
    return {prompt_text(t) for t in (*words.frames, *(q for some in words.questions.values() for q in some))}


def said(items: list[Item], words: Wordings, seed: int) -> set[str]:
    rng = np.random.default_rng(seed)
    return {prompt_text(reword(rng, item, words).text) for item in items for _ in range(20)}


def test_what_is_asked_stays_as_it_is_in_any_words(items: list[Item]) -> None:
    rng = np.random.default_rng(0)
    for item in items:
        for words in (TRAINING, HELD_OUT, BLIND):
            other = reword(rng, item, words)
            assert (answer(other), other.kind, other.targets) == (answer(item), item.kind, item.targets)
            assert "{" not in other.text and "  " not in other.text


def test_held_out_wordings_are_never_trained(items: list[Item]) -> None:
    assert not shapes(TRAINING) & shapes(HELD_OUT)
    assert not {prompt_text(t.replace("{}", "{it}")) for t in instructions.TEMPLATES} & shapes(HELD_OUT)
    things = [{t for some in words.things.values() for t in some} for words in (TRAINING, HELD_OUT)]
    assert not things[0] & things[1]
    assert not said(items, TRAINING, 1) & said(items, HELD_OUT, 2)


def test_of_wordings_written_blind_few_are_trained() -> None:
    """As others talk, so that "the red mug" and "everything red" are said by both."""
    assert len(shapes(BLIND) & shapes(TRAINING)) == 3  # of 48 sentences and questions
    for kind, most in {"color_category": 4, "superlative": 3, "spatial": 2, "negation": 3}.items():
        assert len({*getattr(BLIND, kind)} & {*getattr(TRAINING, kind)}) <= most, kind


def test_the_phrasings_of_test_ood_are_trained_in_no_words(items: list[Item]) -> None:
    frames = [re.escape(t).replace(r"\{\}", ".*") for t in map(prompt_text, instructions.OOD_TEMPLATES)]
    functions = {prompt_text(t) for some in instructions.OOD_FUNCTIONS.values() for t in some}
    for text in said(items, TRAINING, 1):
        assert text not in functions
        assert not any(re.fullmatch(frame, text) for frame in frames), text


def test_the_words_of_a_question_name_what_it_is_about(items: list[Item]) -> None:
    rng = np.random.default_rng(0)
    for item in items:
        for words in (TRAINING, HELD_OUT, BLIND):
            meant, text = item.meaning, prompt_text(reword(rng, item, words).text)
            if item.kind == "function":
                continue
            assert meant.color in text
            names = [*words.names.get(meant.noun, (meant.noun,)), meant.noun, instructions._PLURAL.get(meant.noun, "")]
            assert not meant.noun or any(name in text for name in names if name), (meant, text)
            assert not meant.relation or any(where in text for where in words.relations[meant.relation])
            assert not meant.superlative or any(word in text for word in words.superlatives[meant.superlative])
            if item.kind == "negation":
                assert NEGATED.search(text), text


def test_every_text_is_spelled_without_unknown_tokens_or_bytes(items: list[Item]) -> None:
    tokenizer = build_tokenizer()
    for text in said(items, TRAINING, 3) | said(items, HELD_OUT, 3) | said(items, BLIND, 3):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
        assert not any(t.startswith("<") for t in tokenizer.convert_ids_to_tokens(ids)), text
        assert len(ids) <= 80  # of a prompt's thousands


def test_the_split_asks_the_questions_of_test_in_held_out_words(root: Path) -> None:
    settings = {"n": 40, "seed": 0, "scenes": 12}
    plain = read_cases(settings | {"data": "tabletop:test"}, root)
    other, again = (read_cases(settings | {"data": "tabletop:test-wordings"}, root) for _ in range(2))
    longer = read_cases(settings | {"data": "tabletop:test-wordings", "n": 48}, root)
    for a, b, c, d in zip(plain, other, again, longer, strict=False):
        one, two, three, four = (case.read() for case in (a, b, c, d))
        assert a.id == b.id == c.id and a.kind == b.kind
        assert [t.box for t in one.targets] == [t.box for t in two.targets]
        assert np.array_equal(one.image, two.image)
        assert one.text != two.text and two.text == three.text == four.text
    assert list(held_out_wordings.SPLITS) == ["test-wordings", "test-wordings-blind"]


def test_several_are_counted_only_where_they_are_that_many() -> None:
    things = [
        Thing(n, "mug", c, (40 * n, 50, 40 * n + 30, 80), 700, 1.0, (40 * n + 15, 65))
        for n, c in enumerate(("red", "blue"), 1)
    ]
    rng, found = np.random.default_rng(0), set()
    for _ in range(300):
        item = write(rng, things, ["several"], 0.0)
        if item and len(item.targets) == 2:
            found.add(reword(rng, item, TRAINING).text)
    assert any("both" in text for text in found) and any("the two" in text for text in found)
    assert not any(re.search(r"\b(three|four)\b", text) for text in found)
