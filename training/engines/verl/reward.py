"""A reward profile as verl's custom reward function.

verl 0.9.1 calls `compute_score(data_source=, solution_str=, ground_truth=, extra_info=, **reward_kwargs)` once per
completion and takes a float, or a dict with "score" whose other entries it logs (verl/trainer/ppo/reward.py,
experimental/reward_loop/reward_manager/naive.py). In a configuration:

    reward.custom_reward_function: {path: "pkg://training.engines.verl.reward", reward_kwargs: {profile: seg-zero}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.rewards import PROFILES, Profile
from training.rewards.texts import SQUARE


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    profile: str,
    square: int | None = None,
    **_: Any,
) -> dict[str, float]:
    """{"score": the weighted sum, and every term by its name, unweighted}.

    profile: a name of training.rewards.PROFILES. square: side of the image in pixels, which published thresholds scale
    with; by default what the dataset says in extra_info, else 840. Raises ValueError for a profile that is unknown or
    needs a segmenter, and for a ground truth of the other form: it would score 0 all through the run.
    """
    chosen = _profile(profile)
    row = f"row {(extra_info or {}).get('id', '?')} of {data_source}"
    if (chosen.solution == "single") != ground_truth.lstrip().startswith("<box>"):
        raise ValueError(f"{row}: {profile} takes solutions of the form {chosen.solution!r}, this is {ground_truth!r}")
    side = square or int((extra_info or {}).get("square", SQUARE))
    parts = {name: values[0] for name, values in chosen.parts([solution_str], [ground_truth], square=side).items()}
    score = chosen.score([solution_str], [ground_truth], square=side)[0]
    return {"score": score, **parts}


def _profile(name: str) -> Profile:
    chosen = PROFILES.get(name)
    if chosen is None:
        raise ValueError(f"there is no reward profile {name!r}; known: {', '.join(PROFILES)}")
    if chosen.needs_masks:
        raise ValueError(
            f"reward profile {name} needs a segmenter in the loop, which verl's reward workers do not have"
        )
    return chosen
