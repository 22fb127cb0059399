"""The sets and the runs by name and group, and what each run is told from."""

from __future__ import annotations

from training.experiments.plan import ABLATIONS, AFTERWARDS, ARMS, CONTROLS, MAIN, Plan, jobs

SETS = ("id", "retained", "novel", "questions", "no_target")
BOXED = ("id", "retained", "novel")  # sets with boxes to find
SINGLE = ("id", "novel")  # sets with one box each
STARTS = ("start_think", "start_answer")
VOTES = ("start_majority_of_8", "start_best_of_8")
UNDENIED = "start_undenied"
# Pairs at one learning rate, 3e-5: in the planned ones it differs between arms.
ONE_RATE = tuple(
    ("grpo_thought_slow", b) for b in ("grpo_answer", "sft_answer", "sft_own", "sft_thought_slow", "grpo_random_slow")
)
UNTRAINED = (*STARTS, *VOTES, UNDENIED)
THOUGHTS = ("thought_kept", "thought_emptied", "thought_swapped", "thought_without_coordinates")
GROUPS: dict[str, tuple[str, ...]] = {
    "main": (*STARTS, *(a.name for a in MAIN)),
    "controls": (*VOTES, *(a.name for a in CONTROLS)),
    "ablations": tuple(a.name for a in ABLATIONS),
    "afterwards": (UNDENIED, *(a.name for a in AFTERWARDS)),
    "thought use": THOUGHTS,
}
KNOWN = tuple(name for names in GROUPS.values() for name in names)


def start_of(name: str) -> str:
    """The start in the form that an arm speaks."""
    return STARTS[0] if name not in ARMS or ARMS[name].think else STARTS[1]


def reference(name: str) -> str:
    """What an arm's change is told from: a changed thought from the kept one, everything else from its start."""
    return THOUGHTS[0] if name in THOUGHTS[1:] else start_of(name)


def planned(plan: Plan) -> list[tuple[str, int]]:
    """Every run that leaves a result: some jobs leave several."""
    several = {"start_best_of_8": VOTES, "thought_use": THOUGHTS}
    return [(name, seed) for job, seed in jobs(plan) for name in several.get(job, (job,))]
