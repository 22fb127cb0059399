"""Many answers to one instruction become one: their masks are clustered, and clusters with enough votes stay.

As StAR does it (ysj9909/StAR, evaluation_scripts/evaluation_star.py: run_ensemble_with_params, cluster_mask_candidates,
aggregate_cluster_mask "best"), published with 32 samples at temperature 1 and top-p 0.9. NumPy only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segzero_ros.core.contract import PackedMask
from segzero_ros.core.geometry import packed_iou

CLUSTER_IOU = 0.85
VOTE_SHARE = 0.2
EMPTY_SHARE = 0.5


@dataclass(frozen=True)
class Ballot:
    """One readable answer: its masks and the segmenter's scores for them; no masks where nothing matches."""

    masks: tuple[PackedMask, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Choice:
    """One object of the outcome. It is mask `mask` of ballot `ballot`; votes: ballots with a mask in its cluster."""

    ballot: int
    mask: int
    votes: int
    score: float  # mean over the cluster


@dataclass(frozen=True)
class Cluster:
    members: tuple[tuple[int, int], ...]  # (ballot, mask), in order; the first one is what others are compared with
    votes: int


def clusters(ballots: Sequence[Ballot], iou: float = CLUSTER_IOU) -> list[Cluster]:
    """Greedy, in the order of the ballots: a mask joins the first cluster whose first mask it overlaps by `iou`.

    Empty masks overlap nothing, not even each other. A ballot votes once, however many of its masks are in.
    """

    def mask(b: int, m: int) -> PackedMask:
        return ballots[b].masks[m]

    where = [(b, m) for b, ballot in enumerate(ballots) for m in range(len(ballot.masks))]
    groups: list[list[tuple[int, int]]] = []
    for who in where:
        home = next((g for g in groups if packed_iou(mask(*who), mask(*g[0])) >= iou), None)
        if home is None:
            groups.append([who])
        else:
            home.append(who)
    return [Cluster(tuple(g), len({b for b, _ in g})) for g in groups]


def vote(
    ballots: Sequence[Ballot],
    *,
    iou: float = CLUSTER_IOU,
    share: float = VOTE_SHARE,
    empty: float = EMPTY_SHARE,
) -> list[Choice] | None:
    """The objects that the ballots agree on, most votes first; none where nothing matches; None without a ballot.

    Nothing matches if at least `empty` of the ballots say so. Otherwise as many objects are kept as the most ballots
    name (of those that name any; the number named first at a tie), among clusters with at least `share` of the
    ballots, or among all where none has that many. A cluster's mask is its best single one, by score, then by area.
    """
    if not ballots:
        return None
    named = [len(b.masks) for b in ballots]
    if named.count(0) / len(ballots) >= empty:
        return []
    number = Counter(n for n in named if n).most_common(1)[0][0]
    found = clusters(ballots, iou)
    strong = [c for c in found if c.votes / len(ballots) >= share] or found

    def score(b: int, m: int) -> float:
        return ballots[b].scores[m]

    chosen = []
    for cluster in strong:
        best = max(cluster.members, key=lambda w: (score(*w), ballots[w[0]].masks[w[1]].area))
        mean = float(np.mean([score(*w) for w in cluster.members]))
        chosen.append(Choice(*best, cluster.votes, mean))
    return sorted(chosen, key=lambda c: (-c.votes, -c.score))[:number]
