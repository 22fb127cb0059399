"""The article's claims, fixed before the first reported run, and what became of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from training.experiments.findings.contrasts import Contrast, contrast
from training.experiments.findings.groups import THOUGHTS, start_of
from training.experiments.findings.runs import Runs
from training.experiments.plan import ABLATIONS, ARMS, MAIN

ENOUGH = 3  # seeds, for a verdict
MARGIN = 0.02  # what counts as no gain, or no loss


@dataclass(frozen=True)
class Claim:
    """claim: what the article says; article: its figures. rule: "above", "no gain" or "no loss" (see `verdict`)."""

    claim: str
    article: str
    a: str
    b: str
    on: str
    net: bool = False
    rule: str = "above"


def _claims() -> list[Claim]:
    """Fixed before the first reported run. The first is the outcome that the experiment asks for."""
    found = [
        Claim("Reward raises ID over the start", "RefCOCOg 70.4 → 73.6", "grpo_thought", "start_think", "id"),
        Claim("Reward raises ID without a thought too", "70.4 → 73.2", "grpo_answer", "start_answer", "id"),
    ]
    pairs = [("grpo_thought", a.name) for a in (*MAIN, *ABLATIONS) if a.method == "sft"]
    pairs.append(("grpo_answer", "sft_answer"))
    for a, b in pairs:
        found.append(Claim("Reward generalises better than SFT", "ReasonSeg 53.8 against 44.9", a, b, "novel"))
    for on, figures in (("retained", "–"), ("questions", "VQA 83.8, 93.1 against 75.2, 81.9")):
        found += [Claim("Reward forgets less than SFT", figures, a, b, on, net=True) for a, b in pairs]
        found.append(
            Claim(
                "Reward does not forget",
                "VQA 83.6, 92.8 → 83.8, 93.1",
                "grpo_thought",
                "start_think",
                on,
                rule="no loss",
            )
        )
    for claim, b, both in (
        ("The thought helps", "grpo_answer", ("73.6 against 73.2", "53.8 against 51.3")),
        ("Hard accuracy beats soft", "soft_accuracy", ("73.6 against 70.2", "53.8 against 54.1")),
        ("A small KL weight beats ten times as much", "kl_x10", ("73.6 against 66.6", "53.8 against 50.8")),
        ("n = 8 beats n = 4", "n_4", ("73.6 against 66.8", "53.8 against 52.0")),
    ):
        found += [Claim(claim, f, "grpo_thought", b, on) for on, f in zip(("id", "novel"), both, strict=True)]
    found += [
        Claim("Control: random reward does not gain", "–", "grpo_random", "start_think", "id", rule="no gain"),
        Claim("Control: reward gains more than random reward", "–", "grpo_thought", "grpo_random", "id"),
    ]
    for b in THOUGHTS[1:]:
        found.append(Claim("The answer makes use of the thought", "–", "thought_kept", b, "id"))
    return found


CLAIMS = tuple(_claims())


def verdict(found: Contrast | None, rule: str = "above") -> str:
    """By the interval over seeds, with at least ENOUGH of them; otherwise undecided.

    above: held where it is above 0, did not hold where below. no gain: held where its upper end is below MARGIN, did
    not hold where the interval is above 0; no loss: the mirror of it. Undecided is everything else.
    """
    if found is None:
        return "not run"
    if found.t is None or len(found.seeds) < ENOUGH:
        return "undecided"
    low, high = found.t
    if rule == "no loss":
        low, high = -high, -low
    if rule == "above":
        return "held" if low > 0 else "did not hold" if high < 0 else "undecided"
    return "did not hold" if low > 0 else "held" if high < MARGIN else "undecided"


def judged(runs: Runs, claim: Claim) -> dict[str, Any]:
    found = contrast(runs, claim.a, claim.b, claim.on, net=claim.net)
    other = None if claim.b not in ARMS else contrast(runs, claim.a, claim.b, claim.on, net=not claim.net)
    return {
        **asdict(claim),
        "verdict": verdict(found, claim.rule),
        # Where both speak in one form the start is one, and net is the same.
        "other_verdict": verdict(other, claim.rule) if other and start_of(claim.a) != start_of(claim.b) else None,
        "contrast": found and asdict(found),
        "other_form": other and asdict(other),
    }
