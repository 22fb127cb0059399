"""Evaluation: what a record holds, what figures are made of, runs that are killed, shared out and compared."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PIL

from segzero_ros.core.contract import Generation, LoadedModel, Sampling, Segmentation, Status
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile
from training.data import prepare
from training.data.samples import BadRow, Item, LeftOut, Problem, Sample, Source, Target
from training.data.tabletop.store import render_shard
from training.evaluation import compare as compare_runs
from training.evaluation import evaluate, page
from training.evaluation.asking import Voting
from training.evaluation.figures import summarise
from training.evaluation.item_records import FORM, record, unread
from training.evaluation.items import Case, sample_cases
from training.measures.protocols import PROTOCOLS
from training.measures.records import RecordFile, RecordsError, load, write

SIDE = 224  # the demo profile's square, so that answers are in the image's own pixels
IMAGE = np.full((SIDE, SIDE, 3), 90, np.uint8)
MUG, DUCK = (20, 20, 60, 60), (100, 100, 140, 120)
INFO = LoadedModel("scripted", "1", 1, "float32", "cpu", 1)


def rectangle(box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def said(*boxes: tuple[int, int, int, int]) -> str:
    objects = [{"bbox_2d": list(b), "point_2d": [(b[0] + b[2]) // 2, (b[1] + b[3]) // 2]} for b in boxes]
    return f"<think>looking</think><answer>{json.dumps(objects)}</answer>"


class Scripted:
    """A reasoner that says what is written for a word of the prompt; several texts are drawn from by the seed."""

    info = INFO

    def __init__(self, texts: dict[str, list[str]]) -> None:
        self.texts, self.batches = texts, list[int]()

    def generate(self, squares, prompts, *, sampling: Sampling | None = None, **more):  # type: ignore[no-untyped-def]
        self.batches.append(len(prompts))
        rng = np.random.default_rng(sampling.seed if sampling else 0)
        out = []
        for p in prompts:
            texts = next(t for word, t in self.texts.items() if word in p)
            text = texts[int(rng.integers(len(texts)))] if sampling else texts[0]
            out.append(Generation(text, 1, 7, False, False, 0.0))
        return out


class Boxes:
    """A segmenter that fills its boxes, and fails at one that starts at 13."""

    info = INFO

    def encode(self, image: Any, *, cancel: Any = None) -> Any:
        return image.shape[:2]

    def segment(self, features: Any, boxes: Any, points: Any, *, cancel: Any = None) -> list[tuple[np.ndarray, float]]:
        if any(b[0] == 13 for b in boxes):
            raise RuntimeError("no memory for masks")
        return [(rectangle(tuple(round(v) for v in b)), 0.9) for b in boxes]  # type: ignore[arg-type]

    def segment_pointed(self, features: Any, candidates: Any, *, cancel: Any = None) -> list[tuple[np.ndarray, float]]:
        return self.segment(features, [c.box for c in candidates], [])


TEXTS = {
    "mug": [said(MUG)],
    "duck": [said(DUCK, MUG)],
    "bear": [said()],
    "shelf": ["no idea"],
    "broken": [said((13, 20, 60, 60))],
    "nothing": [said()],
    "half": [said((20, 20, 60, 40))],
}


def pipeline() -> Pipeline:
    return Pipeline(Scripted(TEXTS), Boxes(), load_profile("demo"))


def sample(text: str, *boxes: tuple[int, int, int, int], **more: Any) -> Sample:
    return Sample(f"id-{text}", text, IMAGE, tuple(rectangle(b) for b in boxes), **more)


SAMPLES = [
    sample("the mug", MUG),
    sample("the duck", DUCK),
    sample("the bear", DUCK),
    sample("the shelf", MUG),
    sample("the broken one", MUG),
    sample("nothing at all"),
    sample("the half", MUG, ignore=rectangle((20, 40, 60, 80))),
    replace(sample("the mug alone"), id="boxes", targets=(Target((20, 20, 59, 59), ((30, 30),)),)),
]


def run(samples: Any = SAMPLES, **given_: Any) -> list[dict[str, Any]]:
    return evaluate.evaluate(pipeline(), sample_cases(samples, "test"), batch=3, latency_items=0, **given_)


class TestRecords:
    def test_hold_all_that_was_said_and_seen(self) -> None:
        r = {x["instruction"]: x for x in run()}["the duck"]
        assert r["id"] == "id-the duck" and r["status"] == "OK" and r["text"] == said(DUCK, MUG)
        assert r["reasoning"] == "looking" and r["boxes"] == [list(DUCK), list(MUG)]
        assert r["points"] == [[[120, 110]], [[40, 40]]] and r["true_boxes"] == [list(DUCK)]
        assert (r["intersection"], r["union"]) == (800, 2400)
        assert r["protocols"]["lisa"] == {"intersection": 800, "union": 2400, "iou": 1 / 3, "dropped": False}
        assert (r["box_acc"], r["point_acc"], r["box_acc_lenient"]) == (0.5, 0.5, 1.0)
        assert r["sam_ious"] == [1.0] and r["tokens"] == 7

    def test_ignored_pixels_part_the_protocols(self) -> None:
        (r,) = run([SAMPLES[6]])
        # 40 x 20 of 40 x 40 said; ignored are the other half of the target and as much below.
        assert r["protocols"]["seg-zero"]["iou"] == 800 / 2400
        assert r["protocols"]["lisa"]["iou"] == 1.0
        assert r["ignored"] == 1600

    def test_where_only_boxes_are_known_masks_are_no_figure(self) -> None:
        (r,) = run([SAMPLES[7]])
        assert (r["box_acc"], r["point_acc"]) == (1, 1) and r["union"] is r["protocols"] is r["box_acc_lenient"] is None


class TestFigures:
    def test_nothing_is_dropped(self) -> None:
        problem = Problem("a.json", "bad", "its image is missing")
        records = run_with_problem(problem)
        found = summarise({"data": "rows:x", "batch": 3}, records)
        assert found["n"] == 8 and found["unread"] == 1 and found["failed"] == 1
        assert found["statuses"] == {"BACKEND_ERROR": 1, "NO_OBJECT": 2, "OK": 4, "PARSE_ERROR": 1, "UNREAD": 1}
        both = found["protocols"]
        assert both["seg-zero"]["n"] == both["lisa"]["n"] == 7
        dropped = {name: some["dropped"] for name, some in both.items() if some["dropped"]}
        # The mask step that failed, and nothing where nothing is.
        assert dropped == {"seg-zero": 1, "seg-zero-multi-object": 2, "star": 1}
        # mug 1, duck 1/3, bear 0, shelf 0, broken 0, nothing 0 or 1, half 1/3 or 1.
        assert both["seg-zero"]["giou"] == round((1 + 1 / 3 + 1 / 3) / 7, 4)
        assert both["seg-zero"]["published_giou"] == round((1 + 1 / 3 + 1 / 3) / 6, 4)
        assert both["seg-zero-multi-object"]["published_giou"] == round((1 + 1 / 3 + 1 / 3) / 5, 4)
        assert both["vision-reasoner"]["published_giou"] == both["seg-zero"]["giou"]
        assert both["grefcoco"]["giou"] == round((1 + 1 / 3 + 1 + 1 / 3) / 7, 4)
        assert both["star"]["published_giou"] == round((1 + 1 / 3 + 1 + 1 / 3) / 6, 4)
        assert both["lisa"]["giou"] == round((1 + 1 / 3 + 1 + 1) / 7, 4)
        assert both["lisa"]["ciou"] == round((1600 + 800 + 800) / (1600 + 2400 + 800 + 1600 + 1600 + 0 + 800), 4)

    def test_no_target_accuracy_and_its_lenient_kin(self) -> None:
        unread_shelf = replace(sample("the shelf"), id="absent")
        found = summarise({}, run([SAMPLES[5], unread_shelf, SAMPLES[0], SAMPLES[2]]))
        assert (found["no_target_acc"], found["n_acc_published"], found["t_acc"]) == (0.5, 1.0, 0.5)
        assert found["protocols"]["lisa"]["giou"] == 0.5, "an unreadable answer is not right where nothing is"

    def test_counting_with_failures(self) -> None:
        found = summarise({}, run([SAMPLES[0], SAMPLES[1], SAMPLES[3]]))
        assert found["counting"]["exact"] == 0.3333 and found["counting"]["mae"] == 0.6667
        assert found["counting_published"]["exact"] == 0.6667, "in records of the first form a failure is one object"
        now = summarise({"form": FORM}, run([SAMPLES[0], SAMPLES[1], SAMPLES[3]]))
        assert now["counting_published"] == found["counting"], "in VisionReasoner's library it is none"

    def test_a_table_has_a_line_for_each_protocol(self) -> None:
        lines = evaluate.table(summarise({"batch": 3}, run())).splitlines()
        head = next(n for n, line in enumerate(lines) if line.startswith("protocol"))
        assert [line.split()[0] for line in lines[head + 1 : head + 7]] == list(PROTOCOLS)
        assert all(line.count("[") == 4 for line in lines[head + 1 : head + 7])

    def test_records_of_the_first_form_give_the_figures_of_their_time(self) -> None:
        """They know two protocols, and left every failure out of the published means of Seg-Zero's."""
        old = run()
        for r in old:
            if r["protocols"]:
                both = {name: r["protocols"][name] for name in ("seg-zero", "lisa")}
                both["seg-zero"]["dropped"] |= r["status"] == "BACKEND_ERROR"
                r["protocols"] = both
        found = summarise({"parser": "published"}, old)
        assert list(found["protocols"]) == ["seg-zero", "lisa"] and "published" not in found
        assert found["protocols"]["seg-zero"]["dropped"] == 2
        assert found["protocols"]["seg-zero"]["published_giou"] == round((1 + 1 / 3 + 1 / 3) / 5, 4)
        assert set(found["if_unread_wrong"]) >= {"giou seg-zero", "giou lisa"}
        assert "as dvlab" not in evaluate.table(found)
        names = {c.name for c in compare_runs.compare(old, run(), resamples=50)}
        assert {"giou lisa", "ciou seg-zero"} <= names and "giou star" not in names


class TestWhatCannotBeRead:
    """It is counted, its reason recorded, and the figures said with and without it."""

    @staticmethod
    def source(*more: Any) -> Source:
        """The mug, the duck, and items whose reading raises or whose image is not there."""
        reads: list[Any] = [lambda: SAMPLES[0], lambda: SAMPLES[1]]
        for odd in more:
            reads.append(raising(odd) if isinstance(odd, Exception) else lambda odd=odd: odd)
        return Source("rows", "a.json", [Item(f"item {n}", "image", read) for n, read in enumerate(reads)])

    @pytest.mark.parametrize(
        ("error", "why"),
        [
            (KeyError("counts"), "KeyError: 'counts'"),
            (struct.error("unpack requires 4 bytes"), "error: unpack requires 4 bytes"),
            (PIL.DecompressionBombError("too many pixels"), "DecompressionBombError: too many pixels"),
            (MemoryError(), "MemoryError: "),
            (OSError("disk"), "disk"),
            (BadRow(("row 3", "no mask")), "row 3: no mask"),
        ],
    )
    def test_whatever_one_row_raises_the_others_are_asked(self, error: Exception, why: str) -> None:
        records = run(self.source(error))
        assert [r["status"] for r in records] == ["OK", "OK", "UNREAD"]
        assert records[2] == {"index": 2, "id": "item 2", "kind": "test", "status": "UNREAD", "message": why}

    def test_a_missing_image_leaves_the_truth_in_the_record(self) -> None:
        gone = replace(sample("the vase", MUG, ignore=rectangle((0, 0, 9, 9))), image=Path("gone.jpg"))
        (_, _, r) = run(self.source(gone))
        assert (r["status"], r["message"]) == ("UNREAD", "the image gone.jpg is missing")
        assert (r["instruction"], r["absent"], r["true_boxes"]) == ("the vase", False, [list(MUG)])
        assert (r["box_acc"], r["intersection"], r["union"], r["ignored"]) == (0, 0, 1600, 81)

    def test_a_mask_of_ignored_pixels_of_another_size_is_one_items_fault(self) -> None:
        odd = replace(sample("the mug"), ignore=np.zeros((5, 5), bool))
        assert "ignored pixels are (5, 5) over an image (224, 224)" in run(self.source(odd))[2]["message"]

    def test_figures_are_over_what_was_read_and_said_again_as_if_the_rest_were_wrong(self) -> None:
        gone = [
            replace(sample("the vase", DUCK), image=Path("gone.jpg")),
            replace(sample("no vase"), image=Path("gone.jpg")),
        ]
        found = summarise({"batch": 3}, run(self.source(*gone, SAMPLES[5])))
        assert (found["n"], found["read"], found["items"], found["unread"]) == (3, 3, 5, 2)
        # The mug is right, the duck half (a third by area), what is absent is said to be so.
        assert (found["box_acc"], found["no_target_acc"], found["parse_ok"]) == (0.75, 1.0, 1.0)
        wrong = found["if_unread_wrong"]
        assert (wrong["box_acc"], wrong["no_target_acc"], wrong["parse_ok"]) == (0.5, 0.5, 0.6)
        assert (wrong["giou"], wrong["ciou"]) == (round(4 / 9, 4), round(2400 / (1600 + 2400 + 800), 4))
        assert (wrong["giou lisa"], wrong["giou seg-zero"]) == (round(7 / 15, 4), round(4 / 15, 4))
        lines = evaluate.table(found).splitlines()
        at = lines.index("read 3 of 5 items, in batches of 3")
        assert lines[at + 1] == "  2 unread: the image gone.jpg is missing"
        assert lines[at + 2] == "all figures are over those; if the other 2 were wrong:"
        assert lines[at + 3].split() == ["parse_ok", "0.6"] and "  giou lisa        0.4667" in lines

    def test_an_item_without_a_known_truth_may_be_of_any_kind(self) -> None:
        found = summarise({"batch": 3}, run(self.source(SAMPLES[5], KeyError("counts"))))
        wrong = found["if_unread_wrong"]
        assert (wrong["box_acc"], wrong["no_target_acc"], wrong["parse_ok"]) == (0.5, 0.5, 0.75)
        assert wrong["ciou"] is wrong["ciou lisa"] is None, "the area of its target is not known"
        assert "  ciou lisa        not known" in evaluate.table(found).splitlines()

    def test_where_all_is_read_nothing_is_said_twice(self) -> None:
        found = summarise({"batch": 3}, run(self.source()))
        assert all(found[name] == found["if_unread_wrong"][name] for name in ("box_acc", "giou", "ciou", "t_acc"))
        assert "were wrong" not in evaluate.table(found)

    def test_a_comparison_says_how_many_are_in_no_figure(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        files = [TestComparison.save(tmp_path / "a.jsonl", run(self.source(KeyError("counts"))))] * 2
        assert compare_runs.main([str(f) for f in files]) == 0
        assert "read in both runs: 2 of 3 items; the other 1 are in no figure" in capsys.readouterr().out
        for wrong in (["--seed", "-1"], ["--resamples", "0"], ["--plot", "p.xyz"]):
            with pytest.raises(SystemExit, match="2"):
                compare_runs.main([*map(str, files), *wrong])
        assert compare_runs.main([str(tmp_path), str(files[0])]) == 2, "a folder"
        files[0].write_bytes(b"\xff\xfe")
        assert compare_runs.main([*map(str, files)]) == 2
        assert "segzero-train compare: " in capsys.readouterr().err


def raising(error: Exception) -> Any:
    def read() -> Sample:
        raise error

    return read


def run_with_problem(problem: Problem) -> list[dict[str, Any]]:
    source = Source("rows", "a.json", [Item(s.id, "image", lambda s=s: s) for s in SAMPLES], [problem])  # type: ignore[misc]
    records = run(source)
    assert records[-1]["message"] == "its image is missing"  # behind the items, which --n takes first
    return records


def test_a_row_that_is_right_and_no_item_is_in_no_figure() -> None:
    def crowd() -> Sample:
        raise LeftOut(("annotation 3", '"mug" is but a crowd here, no object'))

    items = [Item("crowd", "image", crowd), Item("mug", "image", lambda: SAMPLES[0])]
    beside = Problem("instances.json", "annotation 7", "its box is empty")  # of a file that other rows use
    records = run(Source("coco", "a.json", items, [beside]))
    assert [r["status"] for r in records] == ["LEFT_OUT", "OK"]
    found = summarise({"data": "coco:x", "batch": 3}, records)
    assert (found["items"], found["read"], found["unread"], found["left_out"], found["box_acc"]) == (1, 1, 0, 1, 1.0)
    assert "left out: 1 rows" in evaluate.table(found)


def test_the_published_parser_refuses_what_the_node_takes() -> None:
    quoted = said(MUG).replace('"', "'")  # as the published example has it
    for script, status in (("", "OK"), ("vision-reasoner", "PARSE_ERROR")):
        asked = Pipeline(Scripted({"mug": [quoted]}), Boxes(), load_profile("demo"))
        asked.script = script
        (r,) = evaluate.evaluate(asked, sample_cases([SAMPLES[0]], "test"), batch=1, latency_items=0)
        assert r["status"] == status


def test_the_same_id_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="1 ids are there more than once, such as 'id-the mug'"):
        sample_cases([SAMPLES[0], SAMPLES[0]], "test")


class TestVoting:
    TEXTS = TEXTS | {"mug": [said(MUG), said(MUG), said(DUCK), "no idea"]}

    def vote(self, batch: int, seed: int = 0, texts: Any = None) -> tuple[dict[str, Any], Scripted]:
        reasoner = Scripted(texts or self.TEXTS)
        voted = Pipeline(reasoner, Boxes(), load_profile("demo"))
        voting = Voting(12, 1.0, 0.9, seed)
        cases = sample_cases([SAMPLES[0]], "test")
        (r,) = evaluate.evaluate(voted, cases, batch=batch, voting=voting, latency_items=0)
        return r, reasoner

    def test_the_majority_is_the_answer_and_every_sample_is_recorded(self) -> None:
        r, reasoner = self.vote(5)
        assert r["boxes"] == [list(MUG)] and r["protocols"]["lisa"]["iou"] == 1
        assert reasoner.batches == [5, 5, 2] and len(r["samples"]) == 12
        assert {s["status"] for s in r["samples"]} == {"OK", "PARSE_ERROR"}
        assert r["votes"] == [sum(s["iou"] == 1 for s in r["samples"])]
        found = summarise({}, [r])
        assert found["best_of_n_box_acc"] == 1 > found["sampled_box_acc"] > 0

    def test_seeds_decide_and_are_recorded_by_equal_texts(self) -> None:
        assert self.vote(5)[0] == self.vote(5)[0]
        assert [s["text"] for s in self.vote(5)[0]["samples"]] != [s["text"] for s in self.vote(5, 1)[0]["samples"]]

    def test_no_sample_that_can_be_read(self) -> None:
        r, _ = self.vote(6, texts=TEXTS | {"mug": ["no idea"]})
        assert r["status"] == "PARSE_ERROR" and r["votes"] == []

    @pytest.mark.parametrize("seed", range(4))
    def test_a_model_that_failed_is_told_where_no_sample_has_a_vote(self, seed: int) -> None:
        r, _ = self.vote(6, seed, TEXTS | {"mug": ["no idea", *TEXTS["broken"]]})
        assert {s["status"] for s in r["samples"]} == {"PARSE_ERROR", "BACKEND_ERROR"}
        assert r["status"] == "BACKEND_ERROR" and r["protocols"]["star"]["dropped"]


def test_the_adapter_draws_by_seed_and_leaves_torchs_generator_alone(models: tuple[Path, Path]) -> None:
    import torch

    from segzero_ros.models.reasoner_transformers import load_reasoner

    reasoner = load_reasoner(replace(load_profile("demo"), max_new_tokens=6), str(models[0]))

    def texts(sampling: Sampling | None) -> list[str]:
        return [g.text for g in reasoner.generate([IMAGE] * 3, ["the mug"] * 3, sampling=sampling)]

    before = torch.get_rng_state()
    hot = texts(Sampling(2.0, 1.0, seed=1))
    assert hot == texts(Sampling(2.0, 1.0, seed=1)) and len(set(hot)) == 3
    assert hot != texts(Sampling(2.0, 1.0, seed=2))
    assert torch.equal(before, torch.get_rng_state())
    assert len(set(texts(None))) == 1 and texts(Sampling(1.0, 1e-9)) == texts(None), "the likeliest alone is left"


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 0.9), (1.0, 0.0), (1.0, 1.1), (float("nan"), 0.9)])
def test_what_cannot_be_drawn_from_is_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        Sampling(temperature, top_p)


class TestShardsAndResuming:
    SETTINGS: dict[str, Any] = {"data": "rows:x", "batch": 3, "items": len(SAMPLES)}  # noqa: RUF012

    @pytest.mark.parametrize(("count", "batch"), [(1, 3), (2, 1), (3, 3), (5, 2), (4, 20)])
    def test_shards_together_are_the_whole(self, count: int, batch: int) -> None:
        cases = sample_cases(SAMPLES, "test")

        def shard(number: int, of: int) -> list[dict[str, Any]]:
            return evaluate.evaluate(pipeline(), cases, batch=batch, shard=(number, of), latency_items=0)

        parts = [r for n in range(count) for r in shard(n, count)]
        assert sorted(parts, key=lambda r: r["index"]) == shard(0, 1)

    @pytest.mark.parametrize("kept", range(len(SAMPLES)))
    @pytest.mark.parametrize("torn", ["", '{"index": 5, "id": "id-no'])
    def test_a_file_cut_anywhere_is_completed_and_nothing_asked_twice(
        self, tmp_path: Path, kept: int, torn: str
    ) -> None:
        whole = run()
        write(tmp_path / "r.jsonl", self.SETTINGS, whole[:kept])
        with (tmp_path / "r.jsonl").open("a") as file:
            file.write(torn)
        again = pipeline()
        records = evaluate.evaluate(
            again,
            sample_cases(SAMPLES, "test"),
            batch=3,
            latency_items=0,
            file=RecordFile(tmp_path / "r.jsonl", self.SETTINGS),
        )
        assert records == whole == load([tmp_path / "r.jsonl"])[1]
        assert again.reasoner.batches == [3, 3, 2][kept // 3 :]  # type: ignore[attr-defined]

    def test_other_settings_are_refused_and_restart_loses_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        write(path, self.SETTINGS, run())
        with pytest.raises(RecordsError, match=r"r.jsonl was made with other settings: batch was 3, is 4; .*--restart"):
            RecordFile(path, self.SETTINGS | {"batch": 4})
        assert RecordFile(path, self.SETTINGS | {"batch": 4}, restart=True).done == {}
        write(path, self.SETTINGS | {"batch": 4}, run())
        assert RecordFile(path, self.SETTINGS | {"batch": 5}, restart=True).done == {}
        for number, batch in ((1, 3), (2, 4)):
            set_aside, records = load([tmp_path / f"r.old-{number}.jsonl"])
            assert set_aside["batch"] == batch and len(records) == len(SAMPLES)

    def test_names_that_differ_after_a_dot_do_not_share_settings(self, tmp_path: Path) -> None:
        for batch, name in ((3, "run.v1"), (4, "run.v2")):
            write(tmp_path / name, self.SETTINGS | {"batch": batch}, run())
        assert [load([tmp_path / name])[0]["batch"] for name in ("run.v1", "run.v2")] == [3, 4]

    def test_records_of_another_command_and_a_torn_line_are_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, asked = tmp_path / "r.jsonl", {"index": 0, "id": "a", "status": "OK", "score": 1.0, "kind": ""}
        write(path, {"items": 1}, [asked])
        assert evaluate.main(["--from-records", str(path)]) == 2
        assert "item 0 (a) has no absent: another command's" in capsys.readouterr().err
        path.write_text(json.dumps(asked) + '\n{"index": 1, ')
        with pytest.raises(RecordsError, match=r"line 2 is no record .*; it was not written to its end"):
            load([path])

    def test_shards_that_do_not_go_together(self, tmp_path: Path) -> None:
        a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
        records = run()
        write(a, self.SETTINGS | {"shard": [0, 2]}, records[:3])
        with pytest.raises(RecordsError, match="5 of 8 items are missing, such as 3, 4"):
            load([a])
        write(b, self.SETTINGS | {"shard": [1, 2], "batch": 9}, records[3:])
        with pytest.raises(RecordsError, match=r"b.jsonl is of another run than .*a.jsonl: batch was 3, is 9"):
            load([a, b])
        write(b, self.SETTINGS | {"shard": [1, 2]}, records[2:])
        with pytest.raises(RecordsError, match=r"item 2 \(id-the bear\) is there twice"):
            load([a, b])
        write(b, self.SETTINGS | {"shard": [1, 2]}, records[3:])
        assert load([b, a]) == load([a, b]) and load([a, b])[1] == records

    def test_a_line_that_is_no_record_is_named(self, tmp_path: Path) -> None:
        write(tmp_path / "r.jsonl", self.SETTINGS, [{"index": 0, "id": "x"}, {"id": "y"}])
        with pytest.raises(RecordsError, match=r"r.jsonl, line 1 is no record .*status"):
            load([tmp_path / "r.jsonl"])
        write(tmp_path / "r.jsonl", self.SETTINGS, [{"index": 0, "id": "x", "status": "OK"}, {"id": "y"}])
        with pytest.raises(RecordsError, match=r"r.jsonl, line 2 is no record"):
            load([tmp_path / "r.jsonl"])
        write(tmp_path / "r.jsonl", {}, [])
        with pytest.raises(RecordsError, match=r"r.jsonl: there are no records"):
            load([tmp_path / "r.jsonl"])


KILLED = """
import os, signal, sys
from training.evaluation import evaluate
from training.measures import records
append = records.RecordFile.append
def dying(self, some):
    append(self, some)
    with self.path.open("a") as file:
        file.write('{"index": 5, "id": "test-')
    os.kill(os.getpid(), signal.SIGKILL)
records.RecordFile.append = dying
evaluate.main(sys.argv[1:])
"""


@pytest.mark.long
def test_embedded_weights_killed_continued_shared_out_and_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command as it is used: a run killed by SIGKILL in the middle of a line ends as two shards do."""
    (tmp_path / "scenes" / "test").mkdir(parents=True)
    render_shard(tmp_path / "scenes" / "test", "test", 0, 10, depth=False)
    common = ["--data", "tabletop:test", "--root", str(tmp_path / "scenes"), "--scenes", "10", "--n", "10"]
    common += ["--batch", "5", "--latency-items", "1", "--json"]
    one = [*common, "--records", str(tmp_path / "one.jsonl")]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *one], env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL
    )
    assert killed.returncode == -signal.SIGKILL
    assert len((tmp_path / "one.jsonl").read_text().splitlines()) == 6  # the last one torn

    def call(*arguments: str) -> dict[str, Any]:
        assert evaluate.main(arguments) == 0
        summary: dict[str, Any] = json.loads(capsys.readouterr().out)
        return summary

    went_on = call(*one)
    for n in (0, 1):
        call(*common, "--records", str(tmp_path / "two.jsonl"), "--shard", f"{n}/2")
    parts = [str(tmp_path / f"two.{n}-of-2.jsonl") for n in (1, 0)]
    pictures = ["--root", str(tmp_path / "scenes"), "--pictures", str(tmp_path / "page.png")]
    merged = call("--from-records", *parts, "--records", str(tmp_path / "two.jsonl"), "--json", *pictures)

    def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.items() if k != "seconds"} for r in records]

    assert timeless(load([tmp_path / "one.jsonl"])[1]) == timeless(load([tmp_path / "two.jsonl"])[1])
    assert {**went_on, "latency_p50_ms": 0} == {**merged, "latency_p50_ms": 0}
    assert call("--from-records", str(tmp_path / "one.jsonl"), "--json") == went_on
    assert went_on["n"] == 10 and went_on["parse_ok"] == 1 and went_on["box_acc"] > 0 and went_on["sam_iou"] > 0.5
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert evaluate.main([*one[:-1], str(tmp_path / "one.jsonl"), "--seed", "1"]) == 2
    assert "seed was 0, is 1" in capsys.readouterr().err
    assert evaluate.main([*one, "--parser", "published"]) == 2  # two readings of texts do not mix in a file
    assert "parser" in capsys.readouterr().err
    strict = [*common, "--records", str(tmp_path / "strict.jsonl"), "--parser", "published"]
    found = call(*strict)
    assert (found["parser"], found["script"]) == ("published", "vision-reasoner")
    assert found["published"]["source"].endswith("vision_reasoner/models/vision_reasoner_model.py")
    assert found["published"]["giou"] == found["protocols"]["vision-reasoner"]["published_giou"]
    settings = json.loads((tmp_path / "strict.settings.json").read_text())
    assert settings["profile_settings"]["max_new_tokens"] == 2048 and settings["form"] == FORM


@pytest.mark.parametrize(
    "arguments",
    [["--data", "tabletop:moon"], ["--data", "nothing:x"], ["--data", "reasonseg:no/such/folder"], ["--profile", "x"]],
)
def test_a_wrong_call_is_one_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def reasonseg(folder: Path) -> None:
    """a: a target and 40 x 20 ignored pixels beside it; b: broken."""
    import cv2

    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "a.jpg"), IMAGE)
    shapes = [
        {"label": "target", "points": [[20, 20], [59, 20], [59, 59], [20, 59]]},
        {"label": "ignore", "points": [[100, 100], [139, 100], [139, 119], [100, 119]]},
    ]
    (folder / "a.json").write_text(json.dumps({"text": ["the mug"], "is_sentence": False, "shapes": shapes}))
    (folder / "b.json").write_text("no JSON")


def cases_of(data: str) -> list[evaluate.Case]:
    settings = {"data": data, "n": None, "seed": 0, "split": "val", "by": None, "sentences": "first", "images": None}
    return evaluate.read_cases(settings, Path())


def test_a_folder_of_reasonseg_with_a_broken_file(tmp_path: Path) -> None:
    """By the readers of `prepare`: what they can't read stays an item."""
    reasonseg(tmp_path)
    records = evaluate.evaluate(pipeline(), cases_of(f"reasonseg:{tmp_path}"), batch=2, latency_items=0)
    assert [(r["id"], r["status"]) for r in records] == [("a", "OK"), ("b", "UNREAD")]
    assert records[0]["protocols"]["lisa"]["iou"] == 1 and records[0]["ignored"] == 40 * 20
    assert records[0]["protocols"]["seg-zero"]["iou"] == 1600 / 2400 and "b.json" in records[1]["message"]


def own_data_to_mend(folder: Path) -> dict[str, Any]:
    """Settings over one image whose only annotation has a bbox without area."""
    PIL.new("RGB", (40, 30), "red").save(folder / "a.png")
    square = {"segmentation": [[5, 5, 20, 5, 20, 20, 5, 20]], "bbox": [0, 0, 0, 0], "text": "the square"}
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, **square}],
    }
    (folder / "a.json").write_text(json.dumps(data))
    base = {"data": f"coco:{folder / 'a.json'}", "images": str(folder), "n": None, "seed": 0, "split": "test"}
    return base | {"by": None, "sentences": "first"}


def test_what_was_mended_is_counted_in_records_and_figures(tmp_path: Path) -> None:
    told = own_data_to_mend(tmp_path)
    (case,) = evaluate.read_cases(told, Path())
    asked = case.read()
    assert len(asked.targets) == 1 and len(asked.mended) == 1
    height, width = asked.image.shape[:2]
    nothing = Segmentation(Status.NO_OBJECT, "", asked.text, height, width)
    summary = summarise(told | {"profile": "demo"}, [record(0, case, asked, nothing)])
    assert list(summary["mended"].values()) == [1]
    assert "1 mended: its bbox" in evaluate.table(summary)


def test_strictly_what_would_be_mended_is_unread(tmp_path: Path) -> None:
    (case,) = evaluate.read_cases(own_data_to_mend(tmp_path) | {"reading": {"strict": True}}, Path())
    with pytest.raises(ValueError, match="--strict"):
        case.read()


@pytest.mark.parametrize(
    ("form", "more", "ignored", "said_so"),
    [
        (["--form", "mask"], [], True, False),
        (["--form", "list", "--square", "224"], ["--masks"], True, False),
        (["--form", "list", "--square", "224"], [], False, True),
    ],
)
def test_ignored_pixels_come_from_the_reader_through_prepared_rows_into_lisas_protocol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: list[str], more: list[str], ignored: bool, said_so: bool
) -> None:
    reasonseg(tmp_path / "val")
    call = ["--source", "reasonseg", "--root", str(tmp_path), "--split", "val", "--out", str(tmp_path / "rows")]
    assert prepare.main([*call, *form, *more, "--page", "0"]) == 0
    assert ("1 rows lose their ignored pixels" in capsys.readouterr().out) == said_so
    summary = json.loads((tmp_path / "rows" / "summary.json").read_text())
    assert (summary["with_ignored_pixels"], summary["ignored_pixels_left_out"]) == (1, int(said_so))
    cases = cases_of(f"rows:{tmp_path / 'rows'}")
    (r,) = evaluate.evaluate(pipeline(), cases, batch=2, latency_items=0)
    assert r["ignored"] == (40 * 20 if ignored else 0)
    if ignored:
        assert r["protocols"]["lisa"]["iou"] == 1 and r["protocols"]["seg-zero"]["iou"] == 1600 / 2400
    else:
        assert r["protocols"] is None, "boxes alone are left, so no pixel is scored"


def test_failures_and_wins_are_on_the_page(tmp_path: Path) -> None:
    records = run()
    chosen = page.choose(records, 4)
    assert [page.quality(r) < 0.5 for r in chosen] == [True, True, False, False]
    samples = dict(enumerate(SAMPLES))
    page.draw(records, lambda n: (IMAGE, np.logical_or.reduce(samples[n].masks)), tmp_path / "p.png", 2, 2)
    assert (tmp_path / "p.png").stat().st_size > 1000


class TestComparison:
    @staticmethod
    def save(path: Path, records: list[dict[str, Any]]) -> Path:
        write(path, {"items": len(records), "batch": 3}, records)
        return path

    def test_items_that_differ_are_named(self) -> None:
        a = run()
        with pytest.raises(RecordsError, match="1 items are in the first run alone, such as id-the mug"):
            compare_runs.compare(a, a[1:])
        b = [a[0] | {"instruction": "another"}, *a[1:]]
        with pytest.raises(RecordsError, match="same id and another instruction, such as id-the mug"):
            compare_runs.compare(a, b)
        assert compare_runs.compare(a, b, resamples=50, reworded=True), "unless it was asked in other words"
        with pytest.raises(RecordsError, match="another true_boxes"):
            compare_runs.compare(a, [a[0] | {"true_boxes": [[0, 0, 1, 1]]}, *a[1:]], reworded=True)

    def test_a_run_equals_itself(self) -> None:
        a = run()
        for c in compare_runs.compare(a, list(reversed(a))):
            assert c.difference == 0 and c.ci == (0, 0) and c.better == c.worse == 0 and c.p in (1, None)

    @settings(deadline=None)
    @given(st.integers(0, 12), st.integers(0, 12))
    def test_the_exact_test_by_counting_coin_tosses(self, better: int, worse: int) -> None:
        n = better + worse
        rows = [1]
        for _ in range(n):
            rows = [x + y for x, y in zip([0, *rows], [*rows, 0], strict=True)]
        extreme = sum(ways for ways in rows if ways <= rows[better])
        assert compare_runs.exact_test(better, worse) == pytest.approx(extreme / 2**n)

    def test_pairing_sees_what_two_intervals_do_not(self) -> None:
        rng = np.random.default_rng(0)
        records = []
        for n, hard in enumerate(rng.random(60)):
            iou = {"intersection": int(1000 * hard), "union": 1000, "iou": float(hard), "dropped": False}
            r = run_one() | {"index": n, "id": str(n), "protocols": {"seg-zero": iou, "lisa": iou}}
            records.append(r)
        better = []
        for r in records:
            iou = r["protocols"]["lisa"] | {"iou": r["protocols"]["lisa"]["iou"] + 0.03}
            better.append(r | {"protocols": {"seg-zero": iou, "lisa": iou}})
        found = {c.name: c for c in compare_runs.compare(records, better, resamples=500)}["giou lisa"]
        assert found.ci == (0.03, 0.03) and found.better == 60 and found.test == "sign" and found.p < 1e-9  # type: ignore[operator]

    def test_the_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        a = run()
        b = [r | {"status": "NO_OBJECT", "box_acc": 0.0} if r["id"] == "id-the mug" else r for r in a]
        one, two = self.save(tmp_path / "a.jsonl", a), self.save(tmp_path / "b.jsonl", b)
        plot = tmp_path / "c.png"
        assert compare_runs.main([str(one), str(two), "--plot", str(plot), "--summary", str(tmp_path / "c.json")]) == 0
        assert "box_acc" in capsys.readouterr().out and plot.stat().st_size > 5000
        found = json.loads((tmp_path / "c.json").read_text())["figures"]
        assert (found["t_acc"]["worse"], found["t_acc"]["test"]) == (1, "mcnemar")
        two = self.save(two, [b[0] | {"id": "id-the cup"}, *b[1:]])
        assert compare_runs.main([str(one), str(two)]) == 2
        assert "in the first run alone, such as id-the mug" in capsys.readouterr().err


def run_one() -> dict[str, Any]:
    (r,) = run([SAMPLES[0]])
    return r


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["--data", "coco:{folder}/my.json"], "coco needs --images DIR"),
        (["--data", "coco:{folder}/my.json", "--images", "{folder}/gone"], "there is no folder"),
        (["--data", "reasonseg:{folder}/gone"], "there is no"),
    ],
)
def test_data_that_is_not_there_is_said_before_a_model_is_loaded(
    call: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate.Pipeline, "load", lambda *_, **__: pytest.fail("a model is loaded"))
    (tmp_path / "my.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert evaluate.main([part.format(folder=tmp_path) for part in call]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert shown[-1].startswith("segzero-train evaluate: ") and said in shown[-1]


def test_the_commonest_reasons_of_unread_items_are_shown() -> None:
    cases = [Case(str(n), "coco", lambda: pytest.fail("it is read")) for n in range(3)]
    records = [unread(n, case, ValueError(f"reason {n % 2}")) for n, case in enumerate(cases)]
    summary = evaluate.summarise({"data": "coco:x", "profile": "demo", "n": 3, "seed": 0, "batch": 1}, records)
    assert list(summary["unread_reasons"].values()) == [2, 1]
    assert "2 unread: " in evaluate.table(summary) and "reason 0" in evaluate.table(summary)


@pytest.mark.parametrize(
    ("gpus", "shard", "wanted"),
    [(0, (1, 8), None), (1, (1, 8), None), (8, (0, 1), None), (8, (3, 8), "cuda:3"), (2, (3, 8), "cuda:1")],
)
def test_a_shard_takes_its_own_gpu(
    gpus: int, shard: tuple[int, int], wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert evaluate.own_gpu(shard) == wanted
