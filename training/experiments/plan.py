"""The arms, and what is the same for all of them: which runs there should be, in which order.

tabletop.json holds the plan's numbers and was committed before the first reported run; tabletop.md says why.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

PLAN = Path(__file__).with_name("tabletop.json")
RESULTS = Path("training/experiments/results/tabletop/runs")


@dataclass(frozen=True)
class Arm:
    """rows: what a supervised arm learns: "answers", "thoughts" (template), "own" (the start's rewarded samples)."""

    name: str
    method: str  # "grpo" or "sft"
    think: bool
    question: str  # what it is there for
    rows: str = "answers"
    profile: str = "segzero"
    changes: dict[str, Any] = field(default_factory=dict)  # of the configuration
    prompts: int = 0  # per update; 0 = as all
    updates: float = 1.0  # times as many as all


@dataclass(frozen=True)
class Plan:
    """What is the same for all arms."""

    updates: int = 100
    prompts: int = 8  # per update
    generations: int = 8
    rates: dict[str, float] = field(default_factory=dict)  # learning rate per arm, from trials on another seed
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    ablation_seeds: tuple[int, ...] = (1, 2, 3)
    share: float = 1.0  # of the test items
    kl_items: int = 256


MAIN = (
    Arm("sft_answer", "sft", False, "supervised, answers alone"),
    Arm("sft_thought", "sft", True, "supervised, with template thoughts", rows="thoughts"),
    Arm("sft_own", "sft", True, "supervised, on the start's own rewarded samples", rows="own"),
    Arm("grpo_answer", "grpo", False, "by reward, without a thought", profile="segzero-answer"),
    Arm("grpo_thought", "grpo", True, "by reward, with a thought"),
)
CONTROLS = (Arm("grpo_random", "grpo", True, "control: rewards by chance", profile="random"),)
ABLATIONS = (
    Arm("soft_accuracy", "grpo", True, "accuracy without thresholds (table 6)", profile="segzero-soft"),
    Arm("kl_x10", "grpo", True, "KL ten times (table 3)", changes={"grpo": {"beta": 5e-2}}),
    Arm(
        "n_4",
        "grpo",
        True,
        "n = 4 at equal completions (table 4)",
        changes={"grpo": {"num_generations": 4}},
        prompts=16,
    ),
    Arm("sft_answer_compute", "sft", False, "supervised, answers, at equal compute", updates=3.0),
    Arm("sft_thought_compute", "sft", True, "supervised, thoughts, at equal compute", rows="thoughts", updates=3.0),
)
# Thought of after the first results, to find out why ID stays where it is; no claim is decided by them. The slow ones
# have the learning rate of grpo_answer, sft_answer and sft_own, so that arms can be compared at one rate.
AFTERWARDS = (
    Arm("grpo_thought_slow", "grpo", True, "the learning rate of grpo_answer"),
    Arm("sft_thought_slow", "sft", True, "the learning rate of sft_answer", rows="thoughts"),
    Arm(
        "grpo_random_slow",
        "grpo",
        True,
        "control: rewards by chance, at the learning rate of grpo_answer",
        profile="random",
    ),
    Arm("grpo_thought_cool", "grpo", True, "sampled at temperature 0.5", changes={"grpo": {"temperature": 0.5}}),
)
ARMS = {a.name: a for a in (*MAIN, *CONTROLS, *ABLATIONS, *AFTERWARDS)}


def plan_of(file: Path, smoke: bool = False) -> Plan:
    given = json.loads(file.read_text())
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given["plan"].items()}
    plan = Plan(**settings)
    if smoke:
        plan = replace(plan, updates=2, prompts=2, generations=2, seeds=(1,), ablation_seeds=(1,), share=0.02)
    return plan


def jobs(plan: Plan) -> list[tuple[str, int]]:
    """In the order of their weight: the start, main arms seed by seed, the control, ablations, what came afterwards."""
    found = [(name, 0) for name in ("start_think", "start_answer")]
    found += [(a.name, seed) for seed in plan.seeds for a in reversed(MAIN)]
    found += [("start_best_of_8", 0)]
    found += [(a.name, seed) for seed in plan.ablation_seeds for a in CONTROLS]
    found += [("thought_use", seed) for seed in plan.ablation_seeds]
    found += [(a.name, seed) for seed in plan.ablation_seeds for a in ABLATIONS]
    found += [("start_undenied", 0)]
    found += [(a.name, seed) for seed in plan.ablation_seeds for a in AFTERWARDS]
    return found
