"""Rewards: plain functions from texts and solutions to lists of floats, and the profiles that sum them.

One module per source; every term's docstring gives its range, its rule and where it comes from.

* `seg_zero`: as published, soft or strict format; `article`: as the article says, which is not the same;
* `vision_reasoner`: as published; `star`: with SAM in the loop, as the paper says and as the code does;
* `segzero`: ours, without their loopholes and with credit for "nothing matches"; `chance`: a control.

A `solution` is the text of the published datasets' column: `<box>...</box><points>...</points>` for `seg_zero` and
`article`, a JSON list of {bbox_2d, point_2d} for the others. Coordinates are pixels of the square; published
thresholds are pixels of an 840 square and scale with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.rewards import article, chance, seg_zero, segzero, star, vision_reasoner

Term = Callable[..., list[float]]


@dataclass(frozen=True)
class Profile:
    """A sum of terms. maximum: of the sum; weights: 1 where none is given.

    pixels: thresholds at a square of 840, which scale with it: a mean L1 of boxes, a distance of points, that are less.
    """

    name: str
    source: str
    maximum: float
    terms: Mapping[str, Term]
    weights: Mapping[str, float] = field(default_factory=dict)
    solution: str = "list"  # or "single": the form of the solutions
    needs_masks: bool = False  # columns `masks` and `images`, and a segmenter
    pixels: Mapping[str, float] = field(default_factory=dict)

    def score(self, texts: Sequence[str], solutions: Sequence[str], **given: Any) -> list[float]:
        """The sums. given: `square` (pixels, 840), and what a term of this profile needs."""
        return self.total(self.parts(texts, solutions, **given))

    def total(self, parts: Mapping[str, Sequence[float]]) -> list[float]:
        """The sums of what `parts` gave."""
        # Summed in the order of the terms: floats are compared bit by bit with the published code.
        sums = [0.0] * len(next(iter(parts.values())))
        for name, values in parts.items():
            weight = self.weights.get(name, 1.0)
            sums = [s + weight * v for s, v in zip(sums, values, strict=True)]
        return sums

    def parts(self, texts: Sequence[str], solutions: Sequence[str], **given: Any) -> dict[str, list[float]]:
        """Every term by itself, unweighted."""
        return {name: term(texts, solutions, **given) for name, term in self.terms.items()}

    def functions(self, **given: Any) -> list[Term]:
        """The terms in the form that TRL's GRPOTrainer takes, completions conversational or plain."""
        return [_for_trainer(name, term, given) for name, term in self.terms.items()]


def _for_trainer(name: str, term: Term, given: Mapping[str, Any]) -> Term:
    def reward(completions: Sequence[Any], solution: Sequence[str], **columns: Any) -> list[float]:
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        more = {key: columns[key] for key in ("masks", "images") if key in columns}
        return term(texts, solution, **more, **given)

    reward.__name__ = name  # what the log calls it
    return reward


_SEG_ZERO = "dvlab-research/Seg-Zero, verl/utils/reward_score/"
_TWO_POINTS = {"box L1": 10.0, "points": 100.0}
_ONE_POINT = {"box L1": 10.0, "point": 30.0}


def _single(name: str, source: str, terms: Mapping[str, Term], pixels: Mapping[str, float]) -> Profile:
    return Profile(name, source, 5.0, terms, solution="single", pixels=pixels)


def _list(name: str, source: str, maximum: float, terms: Mapping[str, Term], masks: bool = False) -> Profile:
    return Profile(name, source, maximum, terms, needs_masks=masks, pixels=_ONE_POINT)


PROFILES: dict[str, Profile] = {
    p.name: p
    for p in (
        _single("seg-zero", _SEG_ZERO + "seg_restrict.py; figures of the paper", seg_zero.STRICT, _TWO_POINTS),
        _single("seg-zero-soft", _SEG_ZERO + "seg.py; table 7 of the paper", seg_zero.SOFT, _TWO_POINTS),
        _single("seg-zero-soft-accuracy", "table 6 of the paper; not in its code", seg_zero.SOFT_ACCURACY, {}),
        _single("article", "the article's words", article.TERMS, _TWO_POINTS),
        _list("vision-reasoner", _SEG_ZERO + "vision_reasoner.py", 7.0, vision_reasoner.TERMS),
        _list(
            "vision-reasoner-answer",
            "VisionReasoner's row without thinking; not in its code",
            6.0,
            vision_reasoner.ANSWER_TERMS,
        ),
        _list("star", "ysj9909/StAR, verl/utils/reward_score/z_star.py, and the paper", 11.0, star.PAPER, True),
        _list("star-code", "ysj9909/StAR, verl/workers/sam_worker.py, stage 1", 13.0, star.CODE, True),
        Profile("star-stage-2", "the same, stage 2", 14.0, star.STAGE_2, needs_masks=True),
        _list("segzero", "ours", 4.0, segzero.TERMS),
        Profile("segzero-soft", "ours, for the ablation of hard thresholds", 4.0, segzero.SOFT_TERMS),
        _list("segzero-answer", "ours, for a policy that is not to think", 4.0, segzero.ANSWER_TERMS),
        Profile("random", "a control: rewards that know nothing of the answer", 1.0, chance.TERMS),
        _list("segzero-mask", "ours, with the segmenter in the loop", 5.0, segzero.MASK_TERMS, True),
    )
}
