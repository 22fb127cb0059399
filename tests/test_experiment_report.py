"""The experiment's report, over runs that this file writes in the form in which real runs leave theirs."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from training.data.tabletop import sets
from training.data.tabletop.store import describe
from training.experiments.findings import boxes, estimates
from training.experiments.findings.claims import CLAIMS, Claim, verdict
from training.experiments.findings.contrasts import Contrast, contrast
from training.experiments.findings.estimates import over_items, over_seeds
from training.experiments.findings.figures import findings
from training.experiments.findings.groups import KNOWN
from training.experiments.findings.runs import load
from training.experiments.plan import ARMS, MAIN, RESULTS, Plan
from training.experiments.report import sentences
from training.experiments.report.__main__ import main
from training.experiments.report.compute import compute
from training.experiments.report.text import render
from training.experiments.report.write import write
from training.experiments.run_files import ResultsError, log_file, write_packed, write_records
from training.experiments.running.judge import judge
from training.measures.metrics import matched

SIZES = {"id": 60, "retained": 60, "novel": 60, "questions": 24, "no_target": 16}
START = {"id": 0.5, "retained": 0.55, "novel": 0.25, "questions": 0.85, "no_target": 0.8}
# What each arm gains: ID, RETAINED, NOVEL, questions, no-target; KL.
EFFECT = {
    "sft_answer": (0.2, -0.3, 0.0, -0.25, -0.4, 3.1),
    "sft_thought": (0.2, -0.2, 0.0, -0.2, -0.3, 2.4),
    "sft_own": (0.1, -0.1, 0.0, -0.1, -0.2, 1.2),
    "grpo_answer": (0.25, -0.02, 0.15, 0.0, -0.1, 0.6),
    "grpo_thought": (0.3, 0.0, 0.2, 0.0, -0.05, 0.4),
    "grpo_random": (0.0, -0.02, 0.0, 0.0, 0.0, 0.2),
}
PLAN = Plan(seeds=(1, 2, 3), ablation_seeds=(1, 2))
Items = dict[str, list[dict[str, Any]]]


def made_up_items(rng: np.random.Generator) -> Items:
    """As `ask_all` names them; several items share a scene."""
    return {
        which: [
            {"id": f"{which}-{n:05d}", "kind": "category", "scene": int(rng.integers(n // 2 + 1))} for n in range(size)
        ]
        for which, size in SIZES.items()
    }


def record(item: dict[str, Any], which: str, right: bool, rng: np.random.Generator) -> dict[str, Any]:
    """As `judge` writes it: a parse error has boxes and no IoU, a question neither."""
    plain = {"id": item["id"], "set": which, "kind": item["kind"], "scene": item["scene"]}
    thought = "<think>The target is the duck. I see a black duck at (96, 116).</think>"
    if which == "questions":
        return {
            **plain,
            "text": f"{thought}<answer>{'yes' if right else 'no'}</answer>",
            "right": float(right),
            "parsed": True,
        }
    if not right and rng.random() < 0.1:
        return {**plain, "text": "<think>The target", "right": 0.0, "parsed": False, "boxes": []}
    if which == "no_target":
        boxes = [] if right else [[80.0, 97.0, 110.0, 133.0]]
        iou = float(right)
    else:
        iou = round(float(rng.uniform(0.5, 0.95) if right else rng.uniform(0, 0.5)), 4)
        boxes = [[80.0, 97.0, 110.0, 133.0]]
    answer = json.dumps([{"bbox_2d": [int(v) for v in b], "point_2d": [94, 115], "label": "black duck"} for b in boxes])
    text = f"{thought}<answer>{answer}</answer>"
    return {**plain, "text": text, "right": float(right), "parsed": True, "iou": iou, "boxes": boxes}


def grpo_log(updates: int, gain: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Rows as TRL logs them, a greedy validation every ten updates, and the closing row."""
    rows: list[dict[str, Any]] = []
    for step in range(1, updates + 1):
        level = 1.2 + 2 * gain * (1 - math.exp(-step / 15)) + 0.05 * float(rng.normal())
        rows.append(
            {
                **{"step": step, "time": 1.8e9 + step, "loss": 1e-6, "grad_norm": 0.6 + 0.1 * rng.random()},
                **{"reward": level, "rewards/accuracy/mean": level - 0.9, "kl": 0.01 * gain * step},
                **{"frac_reward_zero_std": float(rng.integers(5)) / 8, "entropy": 0.7 - 0.02 * gain * step},
                **{
                    "completions/mean_length": 36 + float(rng.normal()),
                    "completions/clipped_ratio": 0.0,
                    "step_time": 12.4,
                    "seconds/generation": 3.5,
                },
                **{"seconds/reference": 2.0, "seconds/reward": 0.01, "seconds/loss": 7.0},
            }
        )
        if step % 10 == 0:
            rows.append(
                {"step": step, "eval_reward": level + 0.4, "eval_rewards/accuracy": level - 0.5, "eval_length": 36.5}
            )
    return [*rows, {"step": updates, "train_runtime": 86.7, "train_loss": 4e-6}]


def sft_log(updates: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"step": s, "loss": 0.9 / s, "grad_norm": 1.5, "entropy": 0.5} for s in range(1, updates + 1)
    ]
    return [*rows, {"step": updates, "eval_reward": 1.6, "eval_rewards/accuracy": 0.7}]


def keep(
    folder: Path, name: str, seed: int, records: list[dict[str, Any]], digests: dict[str, str], **more: Any
) -> None:
    by_set: dict[str, list[dict[str, Any]]] = {}
    for r in records:
        by_set.setdefault(r["set"], []).append(r)
    summary = {
        which: {
            "right": round(float(np.mean([r["right"] for r in some])), 5),
            "parsed": round(float(np.mean([r["parsed"] for r in some])), 5),
            "n": len(some),
        }
        | ({"sha256": digests[which]} if name in ARMS else {})
        for which, some in by_set.items()
    }
    write_records(folder / f"{name}-{seed}.jsonl.gz", records)
    (folder / f"{name}-{seed}.json").write_text(
        json.dumps({"arm": name, "seed": seed, **more, "sets": summary}, indent=1)
    )


def write_runs(
    folder: Path, items: Items, digests: dict[str, str], ask: Callable[..., dict[str, Any]] = record
) -> None:
    """The start, its votes and without denials, main arms with three seeds, the control with two, changed thoughts with
    one; no ablation.

    How often a run is right is the start's share and the arm's effect.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    luck = {which: rng.random(len(some)) for which, some in items.items()}

    def answers(effect: tuple[float, ...], only: tuple[str, ...] = tuple(SIZES)) -> list[dict[str, Any]]:
        """An item is as hard for every run, but for some chance."""
        found = []
        for (which, some), change in zip(items.items(), effect, strict=False):
            right = luck[which] + rng.normal(0, 0.08, len(some)) < START[which] + change
            found += [ask(i, which, bool(r), rng) for i, r in zip(some, right, strict=True) if which in only]
        return found

    for name in ("start_think", "start_answer"):
        keep(folder, name, 0, answers((0.0,) * 5), digests, think=name == "start_think", start_sha256="6e" * 32)
    keep(folder, "start_majority_of_8", 0, answers((0.05, 0, 0, 0, 0)), digests, start_sha256="6e" * 32)
    keep(folder, "start_undenied", 0, answers((0.05, 0, 0.1, 0, -0.8)), digests, start_sha256="6e" * 32)
    keep(folder, "start_best_of_8", 0, answers((0.6, 0.6, 0.6, 0.6, 0.6)), digests, start_sha256="6e" * 32)
    for name, (*effect, kl) in EFFECT.items():
        for seed in PLAN.seeds if name != "grpo_random" else PLAN.ablation_seeds:
            more = {"method": ARMS[name].method, "learning_rate": 1e-4, "updates": 30, "prompts_per_update": 8}
            more |= {
                "generations": 8,
                "rows": 240,
                "start_sha256": "6e" * 32,
                "train_seconds": 900.5,
                "ask_seconds": 60.1,
            }
            more["kl_per_answer"] = round(kl * (1 + 0.1 * float(rng.normal())), 5)
            keep(folder, name, seed, answers(tuple(effect)), digests, **more)
            log = grpo_log(30, effect[0], rng) if name.startswith("grpo") else sft_log(30)
            write_packed(log_file(folder / f"{name}-{seed}.json"), "".join(json.dumps(r) + "\n" for r in log).encode())
    for name, change in (("kept", 0.3), ("emptied", -0.4), ("swapped", -0.9), ("without_coordinates", 0.1)):
        keep(folder, f"thought_{name}", 1, answers((change,), ("id",)), digests, think=True)
    (folder / "thought_use-1.json").write_text(json.dumps({"arm": "thought_use", "seed": 1}))


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiment") / "runs"
    digests = {which: hashlib.sha256(which.encode()).hexdigest() for which in SIZES}
    write_runs(folder, made_up_items(np.random.default_rng(3)), digests)
    return folder


@pytest.fixture
def folder(runs_folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(runs_folder, tmp_path / "runs"))


@pytest.fixture(scope="session")
def written(runs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("written")
    (out / "tabletop").mkdir()
    (out / "tabletop" / "abandoned.jsonl").write_text(
        '{"run": "grpo_thought-4", "why": "the machine was switched off"}\n'
    )
    trial = {"arm": "grpo_thought", "rate": 0.0001, "updates": 30, "seed": 99, "val_id": 0.5125}
    (out / "tabletop" / "trials.jsonl").write_text(json.dumps(trial) + "\n")
    write(runs_folder, out, PLAN)
    return out


@pytest.fixture
def out(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "out"))


def numbers_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "tabletop" / "report.json").read_text()))


def told_of(folder: Path, out: Path) -> tuple[dict[str, Any], str]:
    """Numbers and text, without pictures."""
    found = {**compute(*load(folder), PLAN, out), "pictures": []}
    return found, render(found)


def rewrite(folder: Path, run: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    path = folder / f"{run}.jsonl.gz"
    records = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    write_records(path, change(records) or records)


# Estimates


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6))
def test_the_interval_over_seeds_is_students(values: list[float]) -> None:
    low, high = over_seeds(values) or (math.nan, math.nan)
    if np.std(values) > 1e-3:
        its = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (low, high) == pytest.approx((its.low, its.high), abs=2e-5)
    assert low <= float(np.mean(values)) + 1e-5 and high >= float(np.mean(values)) - 1e-5


def test_one_seed_has_no_interval_over_seeds() -> None:
    assert over_seeds([0.3]) is None


def test_items_of_one_scene_are_drawn_together() -> None:
    """Ten copies of every item under its scene tell no more than the items do; as scenes of their own they would."""
    rng = np.random.default_rng(0)
    values, scenes = (rng.random(80) < 0.5).astype(float), list(range(80))
    once = over_items(values, scenes)
    copied = over_items(np.repeat(values, 10), list(np.repeat(scenes, 10)))
    apart = over_items(np.repeat(values, 10), list(range(800)))
    assert copied == once
    assert apart[1] - apart[0] < 0.5 * (once[1] - once[0])


def test_the_interval_over_items_is_about_two_standard_errors() -> None:
    values = (np.random.default_rng(1).random(900) < 0.3).astype(float)
    low, high = over_items(values, list(range(900)))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 30, rel=0.06)


def test_a_bootstrap_is_the_same_each_time() -> None:
    values = np.arange(7.0)
    first = over_items(values, [0, 0, 1, 1, 2, 3, 4])
    estimates._draws.cache_clear()
    assert over_items(values, [0, 0, 1, 1, 2, 3, 4]) == first


def test_a_contrast_is_paired_by_seed_and_by_item(runs_folder: Path) -> None:
    """Against a computation with plain Python from the raw files."""

    def rights(run: str) -> dict[str, float]:
        lines = gzip.decompress((runs_folder / f"{run}.jsonl.gz").read_bytes()).decode().splitlines()
        return {r["id"]: r["right"] for r in map(json.loads, lines) if r["set"] == "novel"}

    by_seed = []
    for seed in (1, 2, 3):
        a, b = rights(f"grpo_thought-{seed}"), rights(f"sft_own-{seed}")
        by_seed.append(sum(a[i] - b[i] for i in a) / len(a))
    runs, _ = load(runs_folder)
    found = contrast(runs, "grpo_thought", "sft_own", "novel")
    assert found is not None and found.seeds == (1, 2, 3) and found.n == 60
    assert found.estimate == pytest.approx(sum(by_seed) / 3, abs=1e-5)
    its = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert found.t == pytest.approx((its.low, its.high), abs=2e-5)
    # Both think, so that they have one start and nothing is left to take off.
    net = contrast(runs, "grpo_thought", "sft_own", "novel", net=True)
    assert net is not None and net.estimate == found.estimate


def test_a_net_contrast_takes_off_each_ones_own_start(runs_folder: Path) -> None:
    runs, _ = load(runs_folder)
    raw, net = (contrast(runs, "grpo_thought", "grpo_answer", "id", "iou", net) for net in (False, True))
    starts = contrast(runs, "start_think", "start_answer", "id", "iou")
    assert raw and net and starts and starts.estimate != 0
    assert net.estimate == pytest.approx(raw.estimate - starts.estimate, abs=2e-5)


def test_only_common_seeds_are_paired_and_a_run_that_is_not_there_gives_nothing(runs_folder: Path) -> None:
    runs, _ = load(runs_folder)
    found = contrast(runs, "grpo_thought", "grpo_random", "id")
    assert found is not None and found.seeds == (1, 2)
    assert contrast(runs, "grpo_thought", "soft_accuracy", "id") is None
    assert contrast(runs, "thought_kept", "thought_emptied", "novel") is None


# Verdicts


def told(low: float, high: float, seeds: int = 3) -> Contrast:
    t = (low, high) if seeds > 1 else None
    return Contrast("a", "b", "id", "right", False, (low + high) / 2, t, (low, high), tuple(range(seeds)), 10, 10)


@pytest.mark.parametrize(
    ("rule", "low", "high", "seeds", "said"),
    [
        ("above", 0.01, 0.05, 3, "held"),
        ("above", -0.05, -0.01, 3, "did not hold"),
        ("above", -0.01, 0.05, 5, "undecided"),
        ("above", 0.0, 0.05, 3, "undecided"),
        ("above", 0.01, 0.05, 2, "undecided"),
        ("above", 0.01, 0.05, 1, "undecided"),
        ("no gain", -0.05, 0.019, 3, "held"),
        ("no gain", -0.05, 0.03, 3, "undecided"),
        ("no gain", 0.001, 0.01, 3, "did not hold"),
        ("no loss", -0.019, 0.05, 3, "held"),
        ("no loss", -0.03, 0.05, 3, "undecided"),
        ("no loss", -0.01, -0.001, 3, "did not hold"),
    ],
)
def test_a_verdict_follows_the_rule(rule: str, low: float, high: float, seeds: int, said: str) -> None:
    assert verdict(told(low, high, seeds), rule) == said


def test_the_first_claim_is_the_outcome_asked_for_and_every_claim_names_known_arms() -> None:
    assert (CLAIMS[0].a, CLAIMS[0].b, CLAIMS[0].on, CLAIMS[0].rule) == ("grpo_thought", "start_think", "id", "above")
    assert {x for c in CLAIMS for x in (c.a, c.b)} <= set(KNOWN)
    forgets = [c for c in CLAIMS if c.claim == "Reward forgets less than SFT"]
    assert {c.b for c in forgets} >= {a.name for a in MAIN if a.method == "sft"} and all(c.net for c in forgets)
    assert isinstance(CLAIMS[0], Claim)


# Reading


def test_the_files_say_which_runs_there_are(runs_folder: Path) -> None:
    runs, others = load(runs_folder)
    assert others == []
    assert list(runs["grpo_thought"]) == [1, 2, 3] and list(runs["start_think"]) == [0]
    assert runs["grpo_thought"][1].values["iou"].keys() == {"id", "retained", "novel"}


def test_every_wrong_answer_of_one_object_is_of_one_kind(runs_folder: Path) -> None:
    runs, _ = load(runs_folder)
    for run in (runs["grpo_thought"][1], runs["start_think"][0]):
        for which in ("id", "novel"):
            assert sum(run.errors[which].values()) == pytest.approx(1 - float((run.values["right"][which] == 1).mean()))
    assert runs["start_think"][0].errors["id"]["rough"] > 0


def test_what_became_of_the_starts_denials_is_counted_apart(runs_folder: Path, folder: Path) -> None:
    def deny(records: list[dict[str, Any]]) -> None:
        for r in records:
            if r["set"] == "id" and not r["right"]:
                r |= {"parsed": True, "boxes": [], "iou": 0.0}

    whole = load(runs_folder)[0]
    assert not whole["start_think"][0].denied["id"].any(), "made-up answers name one box or cannot be parsed"
    rewrite(folder, "start_think-0", deny)
    summary = json.loads((folder / "start_think-0.json").read_text())
    summary["sets"]["id"]["parsed"] = 1.0
    (folder / "start_think-0.json").write_text(json.dumps(summary))
    runs, _ = load(folder)
    found = findings(runs, PLAN)["denials"]["grpo_thought"]
    start, tuned = runs["start_think"][0], runs["grpo_thought"].values()
    denied = start.denied["id"]
    assert 0 < denied.sum() == (start.values["right"]["id"] == 0).sum()
    gained = [float((r.values["right"]["id"] * denied).mean()) for r in tuned]
    lost = [float(((r.values["right"]["id"] - 1) * ~denied).mean()) for r in tuned]
    assert found["id"]["denied"]["mean"] == pytest.approx(np.mean(gained), abs=1e-5)
    assert found["id"]["others"]["mean"] == pytest.approx(np.mean(lost), abs=1e-5)
    assert found["id"]["denied"]["t"] == pytest.approx(over_seeds(gained), abs=1e-5)
    assert found["id"]["answered"]["start"] == 1.0, "where it did not deny it was right"
    shares = []
    for r in tuned:
        boxed = [x["right"] for x in r.records() if x["set"] == "id" and x["boxes"]]
        shares.append(np.mean(boxed))
    unread = sum((r.values["parsed"]["id"] == 0).sum() for r in tuned)
    assert unread, "some cannot be parsed, and are no answer with a box"
    assert found["id"]["answered"]["mean"] == pytest.approx(np.mean(shares), abs=1e-5)
    change = contrast(runs, "grpo_thought", "start_think", "id")
    assert change and sum(gained + lost) / 3 == pytest.approx(change.estimate, abs=1e-5)


class TestBoxes:
    @given(st.lists(st.tuples(*[st.integers(0, 100)] * 2, *[st.integers(101, 224)] * 2), min_size=2, max_size=8))
    def test_the_iou_is_that_of_the_records(self, some: list[tuple[int, ...]]) -> None:
        a, b = np.array(some[:-1], float), np.array(some[1:], float)
        wanted = [matched([tuple(x)], [tuple(y)]) for x, y in zip(a, b, strict=True)]
        assert boxes.iou(a, b) == pytest.approx([w[0][2] if w else 0.0 for w in wanted])

    def test_a_box_grows_about_its_centre_and_not_beyond_the_square(self) -> None:
        found = boxes.scaled(np.array([[40.0, 40, 60, 80], [200.0, 0, 220, 20]]), 1.5)
        assert found.tolist() == [[35, 30, 65, 90], [195, 0, 224, 25]]

    @pytest.mark.parametrize(("scatter", "least", "most"), [(0.0, 1.0, 1.0), (7.0, 1.05, 1.3)])
    def test_where_places_scatter_larger_boxes_win_more_often(self, scatter: float, least: float, most: float) -> None:
        rng = np.random.default_rng(0)
        true = np.tile([90.0, 90, 120, 120], (20_000, 1))
        moved = true + np.tile(rng.normal(0, scatter, (20_000, 2)), 2)
        # Exact boxes win at many sizes: the mean of those at the top.
        shares = [float((boxes.iou(boxes.scaled(moved, s), true) > 0.5).mean()) for s in boxes.SCALES]
        tops = [s for s, share in zip(boxes.SCALES, shares, strict=True) if share == max(shares)]
        assert least <= min(tops, key=lambda s: abs(s - 1)) <= most


def spoil_summary(folder: Path) -> None:
    path = folder / "grpo_thought-2.json"
    path.write_text(re.sub(r'"right": 0\.\d+', '"right": 0.99', path.read_text(), count=1))


def spoil_item(folder: Path) -> None:
    rewrite(folder, "sft_own-1", lambda records: records[0].update(scene=9999))


def spoil_start(folder: Path) -> None:
    path = folder / "sft_own-2.json"
    path.write_text(path.read_text().replace("6e" * 32, "7e" * 32))


def spoil_set(folder: Path) -> None:
    path = folder / "grpo_answer-3.json"
    path.write_text(path.read_text().replace(hashlib.sha256(b"novel").hexdigest(), "0" * 64))


def spoil_records(folder: Path) -> None:
    path = folder / "grpo_answer-1.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])


def spoil_line(folder: Path) -> None:
    path = folder / "grpo_answer-2.jsonl.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b'"right"', b'"wright"', 1)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_summary, r"grpo_thought-2\.json says right 0\.99 of id, its records 0\.\d+"),
        (spoil_item, r"differ in items of id"),
        (spoil_start, r"differ in start_sha256"),
        (spoil_set, r"differ in sha256 of novel"),
        (spoil_records, r"grpo_answer-1\.jsonl\.gz is not whole"),
        (spoil_line, r"grpo_answer-2\.jsonl\.gz, line 1: no record"),
        (lambda f: (f / "sft_own-3.jsonl.gz").unlink(), r"there is no .*sft_own-3\.jsonl\.gz"),
        (lambda f: (f / "sft_own-3.json").write_text("{"), r"sft_own-3\.json is no summary"),
        (lambda f: [p.unlink() for p in f.iterdir()], r"there is no run in"),
    ],
)
def test_runs_that_do_not_go_together_are_refused(folder: Path, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(folder)
    with pytest.raises(ResultsError, match=message):
        load(folder)


# Logs


def test_a_packed_log_has_the_same_bytes_each_time_and_neither_a_time_nor_a_file_name(tmp_path: Path) -> None:
    data = b'{"step": 1, "loss": 0.5}\n'
    for name in ("grpo_thought-1", "sft_own-2"):
        write_packed(log_file(tmp_path / f"{name}.json"), data)
    one, other = ((tmp_path / f"{n}.log.jsonl.gz").read_bytes() for n in ("grpo_thought-1", "sft_own-2"))
    assert one == other and one[3:8] == bytes(5), "no flag, no time"
    assert gzip.decompress(one) == data


def test_a_runs_log_is_read_from_its_packed_file_and_one_that_was_never_trained_has_none(runs_folder: Path) -> None:
    runs, _ = load(runs_folder)
    steps = [r["step"] for r in runs["sft_own"][2].log() if "loss" in r]
    assert steps == list(range(1, 31))
    assert runs["start_majority_of_8"][0].log() == []


def cut_log(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def spoil_log(file: Path) -> None:
    write_packed(file, gzip.decompress(file.read_bytes()) + b'{"step": 31, "lo')


def unpack_log(file: Path) -> None:
    file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut_log, r"sft_own-2\.log\.jsonl\.gz is not whole"),
        (spoil_log, r"sft_own-2\.log\.jsonl\.gz, line 32: no JSON object"),
        (unpack_log, r"sft_own-2\.log\.jsonl is not packed"),
    ],
)
def test_a_log_that_cannot_be_read_is_refused_and_not_left_out(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(folder / "sft_own-2.log.jsonl.gz")
    with pytest.raises(ResultsError, match=message):
        told_of(folder, tmp_path)


def test_the_committed_logs_are_packed() -> None:
    logs = list(RESULTS.parent.rglob("*.log.jsonl*"))
    assert len(logs) > 70 and all(p.suffix == ".gz" for p in logs)


# The report


def test_the_report_has_its_tables_claims_pictures_and_runs(written: Path) -> None:
    text = (written / "tabletop.md").read_text()
    for heading in ("Main arms", "Controls", "Ablations", "The thought changed", "Box IoU", "Arm against arm"):
        assert f"### {heading}" in text
    assert "## What this can and cannot mean for 3B and 7B" in text and "$" not in text
    assert "greedy ID accuracy after GRPO with thought rose over the start" in text
    other = text.partition("The same in the arms that vary it: GRPO, without thought ")[2].partition(" (n = 3).")[0]
    assert other and f"({other}) |" in text, "as in its row of the table"
    assert (
        "* run: grpo_thought-4; why: the machine was switched off" in text and "| GRPO, with thought | 51.2 |" in text
    )
    assert not (written / "tabletop" / "curves_ablations.png").exists()  # none was run
    for picture in ("plane.png", "bars.png", "curves.png"):
        assert (written / "tabletop" / picture).stat().st_size > 20_000 and f"(tabletop/{picture})" in text
    for run in ("start_think-0", "grpo_thought-3", "thought_swapped-1"):
        assert f"| {run} |" in text


def test_another_rate_is_named_as_a_cause_where_it_was_run(written: Path) -> None:
    found = numbers_of(written)
    assert sentences.slower_policy(found) == "", "it was not run"
    for part in ("arms", "denials"):
        found[part]["grpo_thought_slow"] = found[part]["grpo_thought"]
    found["runs"].append({"run": "grpo_thought_slow-1", "learning_rate": 3e-5})
    row = next(
        x for x in (written / "tabletop.md").read_text().splitlines() if x.startswith("| GRPO, with thought | 3 |")
    )
    change = row.partition("(")[2].partition(")")[0]
    sign, interval = change.split(" ", 1)
    said = (
        f"at 3e-05 in place of 0.0001, which short trials had chosen, ID changes by {sign} points {interval} instead of"
    )
    assert f"{said} {change}, and where the start had answered by " in sentences.slower_policy(found)


def test_a_control_that_fell_apart_is_called_so(written: Path) -> None:
    found = numbers_of(written)
    assert "the start at" in sentences.control(found) and "fell apart" not in sentences.control(found)
    found["arms"]["grpo_random"]["sets"]["id"]["right"]["change"]["estimate"] = -0.4
    assert "it fell apart" in sentences.control(found)


def test_rates_and_hours_are_those_of_the_runs(written: Path) -> None:
    found = numbers_of(written)
    found["runs"] = [
        {"run": "grpo_thought-1", "learning_rate": 1e-4, "train_seconds": 3600, "ask_seconds": 1800},
        {"run": "sft_answer-1", "learning_rate": 3e-5, "ask_seconds": 1800},
        {"run": "kl_x10-1", "learning_rate": 1e-4, "train_seconds": 3600},
    ]
    assert sentences.rates(found) == "3e-05: SFT, answers; 0.0001: GRPO, with thought"
    hours = sentences.hours(found["runs"])
    assert "2.0 of training (2 runs; 1 others" in hours and "1.0 of asking (2 runs)" in hours


def test_a_cell_is_the_mean_and_the_paired_change(written: Path, runs_folder: Path) -> None:
    summaries = [
        json.loads((runs_folder / f"grpo_thought-{s}.json").read_text())["sets"]["id"]["right"] for s in (1, 2, 3)
    ]
    start = json.loads((runs_folder / "start_think-0.json").read_text())["sets"]["id"]["right"]
    row = next(
        x for x in (written / "tabletop.md").read_text().splitlines() if x.startswith("| GRPO, with thought | 3 |")
    )
    mean = float(np.mean(summaries))
    assert f"| {100 * mean:.1f} ({100 * (mean - start):+.1f} [" in row


def test_what_was_not_run_is_said_everywhere(written: Path) -> None:
    found, text = numbers_of(written), (written / "tabletop.md").read_text()
    assert {"soft_accuracy-1", "kl_x10-2", "thought_emptied-2"} <= set(found["not_run"])
    trained = ("grpo_answer", "grpo_thought-", "grpo_random-", "start", "sft_own")
    assert not any(name.startswith(trained) for name in found["not_run"])
    assert "| GRPO, soft accuracy | **not run** | – |" in text
    assert "| thought emptied | 1, not run: 2 |" in text
    hard = next(c for c in found["claims"] if c["b"] == "soft_accuracy")
    assert hard["verdict"] == "not run" and hard["contrast"] is None
    assert re.search(r"Hard accuracy beats soft.*\*\*not run\*\*", text)
    listed = text.partition("### Not run")[2]
    assert all(name in listed for name in found["not_run"])


def test_with_two_seeds_a_claim_stays_undecided(written: Path) -> None:
    control = next(c for c in numbers_of(written)["claims"] if c["b"] == "grpo_random")
    assert control["contrast"]["seeds"] == [1, 2] and control["verdict"] == "undecided"
    assert "**undecided** (2 of 3 seeds)" in (written / "tabletop.md").read_text()


def test_a_verdict_with_fewer_seeds_than_planned_is_provisional(runs_folder: Path, tmp_path: Path) -> None:
    def text(plan: Plan) -> str:
        return render({**compute(*load(runs_folder), plan, tmp_path), "pictures": []})

    said = r"Reward raises ID over the start.*\*\*held\*\*"
    assert re.search(said + r" \|", text(PLAN))
    assert re.search(said + r" \(provisional: 3 of 4 seeds\)", text(replace(PLAN, seeds=(1, 2, 3, 4))))


def test_another_verdict_net_of_the_starts_is_said(runs_folder: Path, tmp_path: Path) -> None:
    found, _ = told_of(runs_folder, tmp_path)
    claims = {(c["claim"], c["b"], c["on"]): c for c in found["claims"]}
    helps = claims["The thought helps", "grpo_answer", "id"]
    assert helps["other_verdict"] == verdict(
        contrast(load(runs_folder)[0], "grpo_thought", "grpo_answer", "id", net=True)
    )
    assert claims["Reward generalises better than SFT", "sft_thought", "novel"]["other_verdict"] is None, "one start"
    helps["verdict"], helps["other_verdict"] = "held", "undecided"
    assert "**held**; net of the starts: undecided" in render(found)


def test_one_seed_is_said_plainly_and_has_the_interval_over_items_alone(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if re.match(r".*-[23]\.", path.name):
            path.unlink()
    found, text = told_of(folder, tmp_path)
    assert re.search(r"\*\*One seed only: .*GRPO, with thought.*\*\*", text)
    assert re.search(r"\| GRPO, with thought \| 1, not run: 2, 3 \| [\d.]+ \([+-][\d.]+ one seed\)", text)
    over_items_table = text.partition("### Over items")[2].partition("###")[0]
    assert re.search(r"\| GRPO, with thought \| 1, .* \([+-][\d.]+ \[[+-][\d.]+, [+-][\d.]+\]\)", over_items_table)
    assert found["arms"]["grpo_thought"]["sets"]["id"]["right"]["t"] is None
    assert {c["verdict"] for c in found["claims"]} == {"undecided", "not run"}
    assert "is undecided for want of seeds" in text and "not established" in text


def test_runs_beside_the_plan_and_unknown_files_are_named_and_in_no_figure(
    folder: Path, tmp_path: Path, out: Path
) -> None:
    for end in (".json", ".jsonl.gz", ".log.jsonl.gz"):
        shutil.copy(folder / f"grpo_thought-1{end}", folder / f"grpo_thought-99{end}")
    (folder / "another_arm-1.json").write_text("{}")
    found, text = told_of(folder, tmp_path)
    assert "Beside the plan, and in no figure: grpo_thought-99." in text
    assert "Files of no known arm, not read: another_arm-1.json." in text
    assert json.loads(json.dumps(found))["arms"] == numbers_of(out)["arms"]


def test_samples_show_the_same_items_before_and_after(written: Path, runs_folder: Path) -> None:
    runs, _ = load(runs_folder)
    before = {r["id"]: r for r in runs["start_think"][0].records()}
    after = {r["id"]: r for r in runs["grpo_thought"][1].records()}
    samples = numbers_of(written)["samples"]
    assert {s["outcome"] for s in samples} >= {"gained", "wrong both times", "kept"}
    for s in samples:
        assert (s["before"], s["after"]) == (before[s["id"]]["text"], after[s["id"]]["text"])
        if s["outcome"] == "gained":
            assert (before[s["id"]]["right"], after[s["id"]]["right"]) == (0, 1)


def test_without_the_start_levels_remain(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("start_*"):
        path.unlink()
    found, text = told_of(folder, tmp_path)
    assert "was not measured" in text and "| start, with thought | **not run** |" in text
    assert found["points"] == [] and found["arms"]["sft_own"]["sets"]["id"]["right"]["change"] is None


# The check


def command(folder: Path, out: Path, *more: str, plan: Path) -> int:
    return main(["--results", str(folder), "--out", str(out), "--plan", str(plan), *more])


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"plan": {"seeds": [1, 2, 3], "ablation_seeds": [1, 2]}}))
    return path


def test_a_report_is_that_of_its_records(runs_folder: Path, out: Path, plan: Path, capsys: Any) -> None:
    assert command(runs_folder, out, "--check", plan=plan) == 0
    assert "every number is that of the records" in capsys.readouterr().out


def test_a_changed_number_is_found(runs_folder: Path, out: Path, plan: Path, capsys: Any) -> None:
    path = out / "tabletop" / "report.json"
    found = json.loads(path.read_text())
    found["arms"]["grpo_thought"]["sets"]["novel"]["right"]["change"]["items"][0] += 0.001
    path.write_text(json.dumps(found))
    assert command(runs_folder, out, "--check", plan=plan) == 1
    assert "/arms/grpo_thought/sets/novel/right/change/items/0: written" in capsys.readouterr().err


def test_a_changed_text_is_found(runs_folder: Path, out: Path, plan: Path, capsys: Any) -> None:
    path = out / "tabletop.md"
    path.write_text(path.read_text().replace("**undecided**", "**held**", 1))
    assert command(runs_folder, out, "--check", plan=plan) == 1
    assert "tabletop.md is not the text of these numbers" in capsys.readouterr().err


def test_a_changed_record_is_found_even_if_its_summary_was_changed_too(folder: Path, out: Path, plan: Path) -> None:
    rewrite(folder, "grpo_answer-1", lambda records: records[0].update(right=1 - records[0]["right"]))
    records = [json.loads(x) for x in gzip.decompress((folder / "grpo_answer-1.jsonl.gz").read_bytes()).splitlines()]
    path = folder / "grpo_answer-1.json"
    summary = json.loads(path.read_text())
    mean = np.mean([r["right"] for r in records if r["set"] == records[0]["set"]])
    summary["sets"][records[0]["set"]]["right"] = round(float(mean), 5)
    path.write_text(json.dumps(summary))
    assert command(folder, out, "--check", plan=plan) == 1


def test_a_missing_report_and_a_broken_run_are_errors_of_use(
    folder: Path, tmp_path: Path, plan: Path, capsys: Any
) -> None:
    assert command(folder, tmp_path / "none", "--check", plan=plan) == 2
    (folder / "sft_own-3.jsonl.gz").unlink()
    assert command(folder, tmp_path / "none", plan=plan) == 2
    assert "sft_own-3.jsonl.gz" in capsys.readouterr().err


# With the scenes


FEW = replace(PLAN, share=0.02)  # of the items and of the scenes


PAIRS = [("red", "mug"), ("green", "duck"), ("blue", "cube"), ("yellow", "bear")]
UNSEEN = [("red", "cylinder"), ("green", "bear"), ("blue", "duck"), ("yellow", "soccer ball")]


def write_scenes(folder: Path, seed: int, kinds: list[tuple[str, str]]) -> None:
    """A shard as `render_shard` leaves it, of coloured rectangles in place of rendered objects."""
    folder.mkdir(parents=True)
    rng, count = np.random.default_rng(seed), 20
    rgb = np.full((count, 224, 224, 3), 190, np.uint8)
    ids = np.zeros((count, 224, 224), np.uint8)
    shades = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (50, 70, 200), "yellow": (220, 200, 40)}
    records = []
    for n in range(count):
        for i, place in enumerate(rng.permutation(4), 1):
            x, y = 15 + 110 * (place % 2) + int(rng.integers(30)), 15 + 110 * (place // 2) + int(rng.integers(30))
            rgb[n, y : y + 50, x : x + 40] = shades[kinds[i - 1][0]]
            ids[n, y : y + 50, x : x + 40] = i
        seen = describe(ids[n])
        objects = [
            {"id": i, "color": c, "category": k, "distance": 0.5 + 0.1 * i, **seen[i]}
            for i, (c, k) in enumerate(kinds, 1)
        ]
        records.append({"objects": objects, "camera": [], "pose": []})
    np.save(folder / "00000_rgb.npy", rgb)
    np.save(folder / "00000_ids.npy", ids)
    (folder / "00000.json").write_text(json.dumps(records))


@pytest.fixture(scope="session")
def with_scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Scenes, and runs whose records are judged by the truth: right texts, or those of another item."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root / "test", 8, PAIRS)
    write_scenes(root / "test-ood", 8, UNSEEN)
    chosen = sets.tests(root, FEW.share)
    asks = {i.id: i.ask for one in chosen.values() for i in one.items}
    items: Items = {w: [{"id": i.id, "kind": i.ask.kind, "scene": i.scene} for i in s.items] for w, s in chosen.items()}

    def ask(item: dict[str, Any], which: str, right: bool, rng: np.random.Generator) -> dict[str, Any]:
        own, other = asks[item["id"]], asks[items[which][int(rng.integers(len(items[which])))]["id"]]
        text = (own if right else other).completion(True)
        return {
            "id": item["id"],
            "set": which,
            "kind": item["kind"],
            "scene": item["scene"],
            "text": text,
            **judge(own, text),
        }

    folder = tmp_path_factory.mktemp("judged") / "runs"
    write_runs(folder, items, {w: s.digest for w, s in chosen.items()}, ask)
    return root, folder


def test_with_scenes_the_report_shows_items_and_judges_every_text_anew(
    with_scenes: tuple[Path, Path], tmp_path: Path, plan: Path, capsys: Any
) -> None:
    root, runs = with_scenes
    out = tmp_path / "out"
    few = json.loads(plan.read_text())
    few["plan"]["share"] = FEW.share
    plan.write_text(json.dumps(few))
    assert command(runs, out, "--root", str(root), plan=plan) == 0
    text = (out / "tabletop.md").read_text()
    assert (out / "tabletop" / "boxes.png").stat().st_size > 10_000 and "(tabletop/boxes.png)" in text
    sizes = numbers_of(out)["boxes"]["sizes"]
    assert re.search(rf"\| GRPO, with thought \| {sizes['grpo_thought']['width']:.3f} \|", text)
    assert "of the true width and height" in text
    assert (out / "tabletop" / "items.png").stat().st_size > 20_000 and "(tabletop/items.png)" in text
    samples = numbers_of(out)["samples"]
    assert all(s["instruction"] and f"“{s['instruction']}”" in text for s in samples)
    # The scenes are not needed again, not for the check either.
    assert command(runs, out, "--check", plan=plan) == 0
    assert "every text judged anew" in capsys.readouterr().out

    spoiled = Path(shutil.copytree(runs, tmp_path / "spoiled"))

    def swap_texts(records: list[dict[str, Any]]) -> None:
        other = next(r for r in records if r["set"] == "id" and r["text"] != records[0]["text"])
        records[0]["text"] = other["text"]

    rewrite(spoiled, "sft_own-1", swap_texts)
    assert command(spoiled, out, "--check", plan=plan) == 1
    assert re.search(r"sft_own-1: id-00000: \w+ .*, judged anew", capsys.readouterr().err)

    def keep_samples(records: list[dict[str, Any]]) -> None:
        for r in records:
            r["texts"] = [r["text"]] * 8

    voted = Path(shutil.copytree(runs, tmp_path / "voted"))
    rewrite(voted, "start_best_of_8-0", keep_samples)
    assert command(voted, out, "--check", plan=plan) == 1
    assert re.search(r"start_majority_of_8-0: \S+: another of the samples", capsys.readouterr().err)


def test_scenes_that_are_not_those_of_the_runs_are_refused(with_scenes: tuple[Path, Path], tmp_path: Path) -> None:
    write_scenes(tmp_path / "other" / "test", 9, PAIRS)
    write_scenes(tmp_path / "other" / "test-ood", 9, UNSEEN)
    with pytest.raises(ResultsError, match=r"gives another set \w+ than .*runs"):
        write(with_scenes[1], tmp_path / "out", FEW, tmp_path / "other")
