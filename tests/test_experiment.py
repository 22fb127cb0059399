"""The experiment in small: what is asked, how it is judged, what its sets share, and a smoke run of all of it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.tabletop import sets
from training.data.tabletop.questions import (
    NAMING,
    QUESTIONS,
    RETAINED,
    UNTAUGHT,
    WORDS,
    Ask,
    instruct,
    question,
)
from training.data.tabletop.scene import HELD_OUT
from training.data.tabletop.store import Scenes, render_split
from training.embedded.batch import Writer
from training.embedded.pretraining import pieces
from training.embedded.tokenizer import build_tokenizer
from training.experiments import reproduce
from training.experiments.plan import ABLATIONS, ARMS, MAIN, PLAN, Plan, jobs, plan_of
from training.experiments.run_files import log_file, read_log
from training.experiments.running import controls
from training.experiments.running.arms import configuration_of
from training.experiments.running.judge import judge
from training.experiments.running.votes import of_eight
from training.rewards import PROFILES


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    return Scenes(render_split(tmp_path_factory.mktemp("scenes"), "val", 30, workers=1))


@pytest.fixture(scope="module")
def asks(scenes: Scenes) -> list[Ask]:
    rng = np.random.default_rng(0)
    drawn = [instruct(rng, scenes.things(n % 30), NAMING + RETAINED + UNTAUGHT, 0.25) for n in range(300)]
    drawn += [question(rng, scenes.things(n % 30)) for n in range(200)]
    return [a for a in drawn if a is not None]


class TestQuestions:
    def test_pieces_are_the_completion_in_text_and_in_tokens(self, asks: list[Ask]) -> None:
        writer = Writer(build_tokenizer(WORDS))
        for ask in asks:
            for think in (True, False):
                whole = ask.completion(think) + "<|im_end|>"
                parts = pieces(ask, think)
                assert "".join(text for text, _, _ in parts) == whole
                assert [t for text, _, _ in parts for t in writer.encode(text)] == writer.encode(whole)

    def test_every_word_of_a_prompt_is_one_token(self, asks: list[Ask]) -> None:
        tokenizer = build_tokenizer(WORDS)
        for ask in asks:
            for think in (True, False):
                words = [w.strip("?,.") for w in ask.prompt(think).split()]
                pieces_ = tokenizer.convert_ids_to_tokens(tokenizer.encode(ask.prompt(think)))
                assert [p.strip() for p in pieces_ if p.strip("?,. ")] == [w for w in words if w]

    def test_the_right_completion_is_right_and_wins_all(self, asks: list[Ask]) -> None:
        for ask in asks:
            for think, profile in ((True, "segzero"), (False, "segzero-answer")):
                text = ask.completion(think)
                assert judge(ask, text)["right"] == 1.0, text
                if not ask.answer:
                    assert PROFILES[profile].score([text], [ask.solution()], square=224) == [4.0]

    def test_kinds_are_in_one_group_each(self) -> None:
        groups = [set(NAMING), set(RETAINED), set(UNTAUGHT), set(QUESTIONS)]
        assert len(set.union(*groups)) == sum(map(len, groups))

    def test_questions_are_answered_by_what_is_there(self, scenes: Scenes) -> None:
        rng = np.random.default_rng(1)
        seen: dict[str, int] = {}
        for n in range(400):
            ask = question(rng, scenes.things(n % 30), ("count", "exists"))
            if ask is None:
                continue
            seen[ask.answer] = seen.get(ask.answer, 0) + 1
            if ask.kind == "exists":
                assert (ask.answer == "yes") == bool(ask.targets)
            else:
                assert ("zero", "one", "two", "three", "four")[len(ask.targets)] == ask.answer
        assert min(seen["yes"], seen["no"]) > 0.3 * (seen["yes"] + seen["no"])


class TestSets:
    def test_fine_tuning_names_and_always_finds(self, scenes: Scenes) -> None:
        chosen = sets.tuning(scenes, 200, seed=3)
        assert {i.ask.kind for i in chosen.items} == set(NAMING)
        assert not any(i.ask.absent for i in chosen.items)
        assert chosen == sets.tuning(scenes, 200, seed=3)
        assert chosen.digest != sets.tuning(scenes, 200, seed=4).digest

    def test_test_sets_hold_their_kinds_alone(self, tmp_path: Path) -> None:
        found = sets.tests(tmp_path, share=0.04)
        kinds = {name: {i.ask.kind for i in s.items} for name, s in found.items()}
        assert kinds["id"] == set(NAMING)
        assert kinds["retained"] == set(RETAINED)
        assert kinds["novel"] == set(NAMING)
        assert all((t.category, t.color) in HELD_OUT for i in found["novel"].items for t in i.ask.targets)
        assert kinds["questions"] == set(QUESTIONS)
        assert all(i.ask.absent for i in found["no_target"].items)
        for name in ("id", "retained", "novel"):
            assert not any(i.ask.absent for i in found[name].items)

    def test_no_image_is_in_two_splits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sets, "SCENES", dict.fromkeys(sets.SCENES, 5))
        assert set(sets.overlaps(tmp_path).values()) == {0}


class TestControls:
    def test_the_majority_is_what_most_samples_say(self, scenes: Scenes) -> None:
        ask = next(i.ask for i in sets.tuning(scenes, 5, 0).items)
        right = ask.completion(True)
        x = [0, 0, 9, 9]
        wrong = f'<think>a</think><answer>[{{"bbox_2d": {x}, "point_2d": [4, 4], "label": "b"}}]</answer>'
        record = {"id": "a", "set": "id", "kind": ask.kind, "scene": 0}
        few = {**record, "texts": [wrong, wrong, wrong, right, "nonsense"]}
        best, most = of_eight([few], {"a": ask})
        assert (best[0]["right"], most[0]["right"]) == (1.0, 0.0)
        many = {**record, "texts": [wrong, right, right, "nonsense"]}
        _, most = of_eight([many], {"a": ask})
        assert most[0]["right"] == 1.0

    def test_no_thought_stays_with_its_item(self) -> None:
        assert all(a != b for a, b in zip("abcdefg", controls.swap("abcdefg"), strict=True))

    def test_a_thought_without_coordinates_keeps_its_words(self) -> None:
        thought = "The target is the red mug. I see a red mug at (12, 200)."
        changed = controls.CHANGES["thought_without_coordinates"]([thought])
        assert changed == ["The target is the red mug. I see a red mug."]


class TestPlan:
    def test_every_arm_is_a_configuration_that_differs_as_it_says(self, tmp_path: Path) -> None:
        plan = plan_of(PLAN)
        for arm in ARMS.values():
            c = configuration_of(arm, plan, 1, reproduce.START, tmp_path, tmp_path, tmp_path)
            assert c.method == arm.method
            if arm.method == "grpo":
                assert c.batch.prompts * c.generations == plan.prompts * plan.generations
                assert c.engine == "shared_prefix"
            assert c.arguments["max_steps"] == round(plan.updates * arm.updates)
        assert plan.updates >= 100
        assert len(plan.seeds) == 5
        assert set(plan.rates) == set(ARMS)

    def test_main_arms_come_first_and_seed_by_seed(self) -> None:
        order = jobs(Plan())
        main = {a.name for a in MAIN}
        assert [s for n, s in order if n in main] == sorted(s for n, s in order if n in main)
        last = max(n for n, (name, _) in enumerate(order) if name in main)
        assert all(order.index(job) > last for job in order if job[0] in {a.name for a in ABLATIONS})

    def test_another_start_is_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"other")
        assert reproduce.main(["--start", str(tmp_path), "--root", str(tmp_path)]) == 2
        assert "not the start checkpoint" in capsys.readouterr().err

    def test_a_wrong_call_is_one_sentence(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "plan.json").write_text("{")
        for call, said in (
            (["--start", str(tmp_path / "none")], "cannot be read"),
            (["--plan", str(tmp_path / "plan.json")], "cannot be read"),
            (["--only", "grpo"], "there is no run grpo; there are start_think"),
        ):
            assert reproduce.main([*call, "--root", str(tmp_path)]) == 2
            shown = capsys.readouterr().err
            assert said in shown and shown.count("\n") == 1


@pytest.mark.long
def test_a_smoke_run_leaves_results_that_a_second_call_takes_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The start, one supervised arm and one by reward, trained and asked in processes of their own."""
    places = ["--root", str(tmp_path / "scenes"), "--work", str(tmp_path / "work"), "--results", str(tmp_path / "runs")]
    only = ["--only", "start_answer", "sft_own", "grpo_answer"]
    code = reproduce.main(["--smoke", *places, *only])
    logs = "\n".join(p.read_text(errors="replace")[-2000:] for p in (tmp_path / "work").glob("*.log"))
    assert code == 0, logs
    for name in ("start_answer-0", "sft_own-1", "grpo_answer-1"):
        result: dict[str, Any] = json.loads((tmp_path / "runs" / f"{name}.json").read_text())
        with gzip.open(tmp_path / "runs" / f"{name}.jsonl.gz", "rt") as file:
            records = [json.loads(line) for line in file]
        for which, figures in result["sets"].items():
            mine = [r["right"] for r in records if r["set"] == which]
            assert figures["right"] == pytest.approx(np.mean(mine), abs=1e-5)
            assert figures["n"] == len(mine)
        log = read_log(log_file(tmp_path / "runs" / f"{name}.json"))
        if name == "start_answer-0":
            assert [(r["step"], "eval_reward" in r) for r in log] == [(0, True)]  # where the others' curves begin
        else:
            assert sum("loss" in r for r in log) >= 2
    capsys.readouterr()
    assert reproduce.main(["--smoke", *places, *only]) == 0
    assert "0 to go" in capsys.readouterr().out
