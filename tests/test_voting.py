"""How many answers to one instruction become one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzero_ros.core.contract import PackedMask
from segzero_ros.core.geometry import pack
from training.measures.voting import Ballot, clusters, vote

SIZE = 40


def rectangle(x1: int, y1: int, x2: int, y2: int) -> PackedMask:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[y1:y2, x1:x2] = True
    return pack(mask)


MUG, MUG_AGAIN, DUCK, BEAR = (rectangle(*b) for b in ((0, 0, 10, 10), (0, 0, 10, 9), (20, 20, 30, 30), (30, 0, 40, 9)))
NOTHING = Ballot((), ())


def one(mask: PackedMask, score: float = 0.5) -> Ballot:
    return Ballot((mask,), (score,))


def masks_of(ballots: list[Ballot], **given: float) -> list[PackedMask]:
    found = vote(ballots, **given)
    assert found is not None
    return [ballots[c.ballot].masks[c.mask] for c in found]


def test_the_object_that_most_name_wins() -> None:
    found = masks_of([one(DUCK, 0.99), one(MUG), one(MUG_AGAIN, 0.7), one(MUG)])
    assert len(found) == 1 and found[0] is MUG_AGAIN, "the best single mask of the winning cluster"


@pytest.mark.parametrize(("empty", "kept"), [(1, 1), (2, 0), (3, 0)])
def test_half_of_the_votes_for_nothing_are_enough(empty: int, kept: int) -> None:
    assert len(masks_of([NOTHING] * empty + [one(MUG)] * (4 - empty))) == kept


def test_no_readable_answer_is_not_the_answer_nothing() -> None:
    assert vote([]) is None and vote([NOTHING]) == []


def test_as_many_objects_as_most_answers_name() -> None:
    pair = Ballot((MUG, DUCK), (0.9, 0.9))
    assert len(masks_of([pair, pair, one(MUG)])) == 2
    assert len(masks_of([pair, one(MUG), one(MUG)])) == 1


def test_a_cluster_below_the_share_is_left_out_unless_all_are() -> None:
    crowd = [Ballot((MUG, DUCK), (0.9, 0.9))] + [Ballot((MUG, BEAR), (0.9, 0.9))] * 9
    assert masks_of(crowd) == [MUG, BEAR]
    scattered = [one(rectangle(4 * n, 0, 4 * n + 4, 4)) for n in range(8)]
    assert len(masks_of(scattered)) == 1


def test_a_ballot_votes_once_for_an_object_it_names_twice() -> None:
    assert [c.votes for c in clusters([Ballot((MUG, MUG, MUG), (0.5, 0.5, 0.5)), one(MUG)])] == [2]


def test_empty_masks_do_not_agree_with_each_other() -> None:
    assert len(clusters([one(rectangle(0, 0, 0, 0)), one(rectangle(0, 0, 0, 0))])) == 2


@pytest.mark.parametrize(("height", "together"), [(85, 1), (84, 2)])
def test_the_bound_of_a_cluster_belongs_to_it(height: int, together: int) -> None:
    whole = np.ones((100, 100), bool)
    part = whole & (np.arange(100)[:, None] < height)
    assert len(clusters([one(pack(whole)), one(pack(part))])) == together


def naive(ballots: list[Ballot]) -> list[tuple[int, int]] | None:
    """The published procedure, step by step on sets of pixels."""
    if not ballots:
        return None
    if sum(not b.masks for b in ballots) * 2 >= len(ballots):
        return []
    groups: list[list[tuple[int, int]]] = []
    pixels = {(b, m): set(np.flatnonzero(x.full())) for b, v in enumerate(ballots) for m, x in enumerate(v.masks)}
    for who, mine in pixels.items():
        for group in groups:
            first = pixels[group[0]]
            if mine | first and len(mine & first) / len(mine | first) >= 0.85:
                group.append(who)
                break
        else:
            groups.append([who])
    strong = [g for g in groups if len({b for b, _ in g}) / len(ballots) >= 0.2] or groups
    scores = {who: ballots[who[0]].scores[who[1]] for who in pixels}
    strong.sort(key=lambda g: (len({b for b, _ in g}), float(np.mean([scores[w] for w in g]))), reverse=True)
    number = Counter(len(b.masks) for b in ballots if b.masks).most_common(1)[0][0]
    return [max(g, key=lambda w: (scores[w], len(pixels[w]))) for g in strong[:number]]


BOXES = st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 12), st.integers(0, 12))
BALLOTS = st.lists(st.lists(st.tuples(BOXES, st.sampled_from([0.25, 0.5, 0.75])), max_size=3), max_size=7)


@settings(max_examples=150, deadline=None)
@given(BALLOTS)
def test_equals_the_published_procedure_step_by_step(drawn: list) -> None:
    ballots = [Ballot(tuple(rectangle(*b) for b, _ in d), tuple(s for _, s in d)) for d in drawn]
    found, expected = vote(ballots), naive(ballots)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert [(c.ballot, c.mask) for c in found] == expected


@settings(max_examples=60, deadline=None)
@given(BALLOTS, st.integers(1, 4))
def test_the_same_ballots_several_times_over_change_nothing(drawn: list, times: int) -> None:
    ballots = [Ballot(tuple(rectangle(*b) for b, _ in d), tuple(s for _, s in d)) for d in drawn]
    if ballots and all(m.area for b in ballots for m in b.masks):  # empty ones never meet in a cluster
        assert masks_of(ballots) == masks_of(ballots * times)
