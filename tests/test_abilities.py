"""Question answering: each set's own measure, its own format, and a record for every question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzero_ros.core.contract import Generation
from training.data.tabletop.store import Scenes
from training.evaluation import abilities, question_sets
from training.evaluation.answer_scores import (
    anls,
    edit_distance,
    exact,
    normalise_textvqa,
    normalise_vqa,
    relaxed_accuracy,
    textvqa_accuracy,
    vqa_accuracy,
)
from training.evaluation.question_sets import Question
from training.measures.records import RecordFile, load

TEN = ["red"] * 2 + ["dark red"] * 7 + ["blue"]


class TestVqaAccuracy:
    @pytest.mark.parametrize(
        ("answer", "value"),
        # With two of ten who say it: eight leave-one-outs give 2/3, two give 1/3.
        [("red", (8 * 2 + 2 * 1) / 30), ("dark red", 1.0), ("blue", 9 / 30), ("green", 0.0), ("", 0.0)],
    )
    def test_a_third_of_a_point_for_each_other_annotator(self, answer: str, value: float) -> None:
        assert vqa_accuracy(answer, TEN) == pytest.approx(value)

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("The Dog.", "dog"),
            ("two", "2"),
            ("dont", "don't"),
            ("1,000", "1000"),
            ("red/blue", "red blue"),
            ("3.5", "3.5"),
            ("none", "0"),
            ("y'alld've", "y'all'd've"),
            ("oclock", "o'clock"),
        ],
    )
    def test_normalisation(self, written: str, meant: str) -> None:
        assert normalise_vqa(written) == meant

    def test_raw_text_counts_where_all_annotators_agree(self) -> None:
        assert vqa_accuracy("Yes", ["yes"] * 10) == 0
        assert vqa_accuracy("Yes", ["yes"] * 9 + ["no"]) == 1
        assert textvqa_accuracy("Yes", ["yes"] * 10) == 1

    def test_textvqa_parts_the_genitive(self) -> None:
        assert normalise_textvqa("Levi's") == "levi 's"

    @settings(deadline=None)
    @given(st.lists(st.text(max_size=6), min_size=1, max_size=10), st.text(max_size=6))
    def test_is_a_share_for_any_text(self, answers: list[str], answer: str) -> None:
        for measure in (vqa_accuracy, textvqa_accuracy, anls, relaxed_accuracy, exact):
            assert 0 <= measure(answer, answers) <= 1


class TestAnls:
    @pytest.mark.parametrize(("said", "value"), [("12/15/88", 1), ("12/15/89", 7 / 8), ("12/", 0), ("12/1", 0.5)])
    def test_small_slips_cost_little_and_below_one_half_nothing_counts(self, said: str, value: float) -> None:
        assert anls(said, ["12/15/88", "another"]) == pytest.approx(value)

    def test_case_does_not_count(self) -> None:
        assert anls("dear dr.  Lobo", ["Dear Dr. Lobo"]) == 1

    @settings(max_examples=60, deadline=None)
    @given(st.text("ab", max_size=6), st.text("ab", max_size=6))
    def test_edit_distance_by_the_recursive_definition(self, a: str, b: str) -> None:
        def slow(x: str, y: str) -> int:
            if not x or not y:
                return len(x) + len(y)
            return min(slow(x[1:], y) + 1, slow(x, y[1:]) + 1, slow(x[1:], y[1:]) + (x[0] != y[0]))

        assert edit_distance(a, b) == slow(a, b)


@pytest.mark.parametrize(
    ("said", "true", "right"),
    [
        ("105", "100", True),
        ("106", "100", False),
        ("5%", "0.05", True),
        ("Yes", "yes", True),
        ("yes.", "yes", False),
        ("0.0", "0", False),  # as published: the true number is 0, so text is compared
        ("-95", "-100", True),
        ("nan", "3", False),
    ],
)
def test_relaxed_accuracy(said: str, true: str, right: bool) -> None:
    assert relaxed_accuracy(said, [true]) == right


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>two mugs</think><answer> 2 </answer>", "2"),
        ("<think>so</think>\nred", "red"),
        ("red", "red"),
        ("<answer>no end", "no end"),
    ],
)
def test_the_answer_in_a_text(text: str, answer: str) -> None:
    assert abilities.said(text) == answer


class TestReaders:
    """Small files in each set's own format."""

    def test_vqav2(self, tmp_path: Path) -> None:
        asked = [{"image_id": 42, "question": "What color?", "question_id": 420001}]
        answers = [{"answer": a, "answer_confidence": "yes", "answer_id": n + 1} for n, a in enumerate(TEN)]
        given_ = {"question_id": 420001, "image_id": 42, "answers": answers, "answer_type": "other"}
        q = self.write(tmp_path / "q.json", {"data_subtype": "val2014", "questions": asked})
        a = self.write(tmp_path / "a.json", {"annotations": [given_]})
        (found,) = question_sets.read_vqav2(q, a, tmp_path)
        assert found.answers == tuple(TEN) and found.kind == "other" and found.id == "420001"
        assert found.image == tmp_path / "COCO_val2014_000000000042.jpg"
        self.write(tmp_path / "a.json", {"annotations": []})
        with pytest.raises(ValueError, match=r"q.json, row 0 .*a.json has no answers to question 420001"):
            question_sets.read_vqav2(q, a, tmp_path)

    def test_textvqa_and_docvqa(self, tmp_path: Path) -> None:
        row: dict[str, Any] = {"question_id": 7, "questionId": 7, "question": "brand?", "answers": TEN}
        path = self.write(tmp_path / "q.json", {"data": [row | {"image_id": "abc", "image": "documents/x_1.png"}]})
        assert question_sets.read_textvqa(path, tmp_path)[0].image == tmp_path / "abc.jpg"
        assert question_sets.read_docvqa(path, tmp_path)[0].image == tmp_path / "documents" / "x_1.png"
        self.write(tmp_path / "q.json", {"data": [row | {"answers": "red", "image_id": "abc"}]})
        with pytest.raises(ValueError, match=r"row 0 .* answers are no list"):
            question_sets.read_textvqa(path, tmp_path)

    def test_chartqa(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "human.json", [{"imgname": "1.png", "query": "how many?", "label": "14"}])
        (found,) = question_sets.read_chartqa(path, tmp_path)
        assert (found.id, found.answers) == ("human-00000", ("14",))

    @pytest.mark.parametrize("content", ["", "[]", '{"data": 3}', '{"data": [{"question": "?"}]}'])
    def test_another_format_is_named(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "q.json").write_text(content)
        with pytest.raises(ValueError, match=r"q\.json"):
            question_sets.read_textvqa(tmp_path / "q.json", tmp_path)

    @staticmethod
    def write(path: Path, data: Any) -> Path:
        path.write_text(json.dumps(data))
        return path


class Parrot:
    """Answers with the first word of the question; the last one is cut off."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate(self, squares, prompts, *, on_text=None, cancel=None, sampling=None):  # type: ignore[no-untyped-def]
        self.asked += prompts
        assert all(s.shape == (28, 28, 3) for s in squares)
        return [Generation(p.split()[0], 1, 1, "cut" in p, False, 0.0) for p in prompts]


def test_a_record_for_every_question_and_figures_from_records_alone(tmp_path: Path) -> None:
    image = np.zeros((30, 20, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "there.png"), image)
    questions = [
        Question("a", image, "red ?", ("Red",), "color"),
        Question("b", tmp_path / "there.png", "two ?", ("3",), "count"),
        Question("c", tmp_path / "missing.png", "x ?", ("x",), "count"),
        Question("d", image, "blue cut", ("blue",), "color"),
    ]
    parrot = Parrot()
    file = RecordFile(tmp_path / "r.jsonl", {"items": 4})
    records = abilities.check(parrot, 28, questions, batch=3, file=file)  # type: ignore[arg-type]
    assert [r["status"] for r in records] == ["OK", "OK", "UNREAD", "TRUNCATED"]
    found = abilities.summarise(load([tmp_path / "r.jsonl"])[1])
    assert (found["n"], found["accuracy"], found["unread"], found["truncated"]) == (3, 0.6667, 1, 1)
    assert found["kinds"]["count"] == {"n": 1, "accuracy": 0.0, "accuracy_ci": (0.0, 0.0)}
    again = Parrot()
    file = RecordFile(tmp_path / "r.jsonl", {"items": 4})
    assert abilities.check(again, 28, questions, batch=3, file=file) == records  # type: ignore[arg-type]
    assert parrot.asked and not again.asked, "what is on the disk is not asked again"


@pytest.mark.parametrize("odd", [KeyError("image"), MemoryError(), OSError("disk")])
def test_what_one_question_raises_is_counted_and_said_as_if_it_were_wrong(odd: Exception) -> None:
    class Odd(Question):
        def pixels(self) -> np.ndarray:
            raise odd

    image = np.zeros((28, 28, 3), np.uint8)
    questions = [Question("a", image, "red ?", ("red",)), Odd("b", image, "two ?", ("two",))]
    records = abilities.check(Parrot(), 28, questions, batch=2)  # type: ignore[arg-type]
    assert [r["status"] for r in records] == ["OK", "UNREAD"]
    found = abilities.summarise(records)
    assert (found["n"], found["items"], found["accuracy"], found["accuracy_if_unread_wrong"]) == (1, 2, 1.0, 0.5)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.data.tabletop.store import render_shard

    root = tmp_path_factory.mktemp("tabletop")
    (root / "val").mkdir()
    render_shard(root / "val", "val", 0, 8, depth=False)
    return root


class TestTabletop:
    """The experiment's questions, asked of any checkpoint of the embedded architecture."""

    def test_questions_are_the_experiments_own(self, scenes: Path) -> None:
        from training.data.tabletop import sets

        found, digest = question_sets.read_tabletop(scenes, "val", scenes=8, count=20, seed=3)
        assert digest != question_sets.read_tabletop(scenes, "val", scenes=8, count=20, seed=4)[1]
        drawn = sets.build(Scenes(scenes / "val", limit=8), "val", "questions", sets.TESTS["questions"][1], 20, 3)
        assert [(q.question, q.answers, q.kind) for q in found] == [
            (i.ask.text, (i.ask.answer,), i.ask.kind) for i in drawn.items
        ]
        assert digest == drawn.digest
        assert {q.kind for q in found} == {"exists", "what_color", "what_kind", "count"}
        assert [abilities.tabletop_prompt(found[0].question, s) for s in ("think", "answer")] == [
            drawn.items[0].ask.prompt(True),
            drawn.items[0].ask.prompt(False),
        ]

    @pytest.mark.parametrize("think", [True, False])
    def test_the_right_completions_are_right(self, scenes: Path, think: bool) -> None:
        from training.data.tabletop import sets

        found, _ = question_sets.read_tabletop(scenes, "val", scenes=8, count=20, seed=3)
        drawn = sets.build(Scenes(scenes / "val", limit=8), "val", "questions", sets.TESTS["questions"][1], 20, 3)

        class Knowing:
            def generate(self, squares, prompts, **_):  # type: ignore[no-untyped-def]
                told = {(i.ask.prompt(think), i.scene): i.ask.completion(think) for i in drawn.items}
                by_image = {Scenes(scenes / "val").rgb(n).tobytes(): n for n in range(8)}
                texts = [told[p, by_image[s.tobytes()]] for s, p in zip(squares, prompts, strict=True)]
                return [Generation(t, 1, 1, False, False, 0.0) for t in texts]

        def prompt(question: str) -> str:
            return abilities.tabletop_prompt(question, "think" if think else "answer")

        records = abilities.check(Knowing(), 224, found, prompt=prompt)  # type: ignore[arg-type]
        assert abilities.summarise(records)["accuracy"] == 1.0

    def test_the_command_asks_a_small_model_and_continues(
        self, scenes: Path, models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call = ["--set", "tabletop", "--root", str(scenes), "--split", "val", "--scenes", "8", "--n", "6"]
        call += ["--batch", "4", "--reasoner", str(models[0]), "--records", str(tmp_path / "r.jsonl")]
        assert abilities.main(call) == 0
        first = json.loads(capsys.readouterr().out)
        assert (first["profile"], first["data"], first["suffix"]) == ("demo", "tabletop:val", "answer")
        assert first["n"] == first["items"] == 6 and sum(k["n"] for k in first["kinds"].values()) == 6
        assert first["sha256"] == question_sets.read_tabletop(scenes, "val", scenes=8, count=6, seed=0)[1]
        assert all(r["text"] for r in load([tmp_path / "r.jsonl"])[1])
        assert abilities.main(call) == 0 and json.loads(capsys.readouterr().out) == first
        assert abilities.main([*call, "--suffix", "think"]) == 2
        assert "suffix was 'answer', is 'think'" in capsys.readouterr().err

    def test_a_wrong_call_is_one_sentence(self, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert abilities.main(["--set", "tabletop", "--root", str(scenes), "--split", "moon"]) == 2
        assert "no split 'moon'; there are train, tune, val, test, test-ood" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            abilities.main(["--set", "tabletop", "--images", "x"])
