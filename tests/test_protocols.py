"""The protocols and the figures of boxes, counts and ranks, each beside a naive implementation of its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segzero_ros.core.published import SCRIPTS
from training.measures import protocols
from training.measures.metrics import counting, detection_ap, interval, lenient_box_hit, ratio_interval

SHAPE = (4, 5)
NOTHING = np.zeros(SHAPE, bool)
MASKS = arrays(bool, SHAPE)
# Mostly few pixels, so that empty masks and unions occur.
SPARSE = st.one_of(MASKS, st.sets(st.integers(0, 19), max_size=2).map(lambda some: pixels(*some)))


def pixels(*numbers: int) -> np.ndarray:
    mask = np.zeros(20, bool)
    mask[list(numbers)] = True
    return mask.reshape(SHAPE)


def naive_seg_zero(predicted: Any, target: Any, ignore: Any) -> tuple[int, int, float]:
    """Pixel by pixel; the label image of the published copies: 1 target, 255 ignore, then anything but 0 is target."""
    above = below = 0
    for p, t, i in zip(predicted.flat, target.flat, ignore.flat, strict=True):
        label = bool(255 if i else 1 if t else 0)
        above += p and label
        below += p or label
    return above, below, above / below if below > 0 else 0


def naive_lisa(predicted: Any, target: Any, ignore: Any) -> tuple[int, int, float]:
    """Histograms of labels with 255 for "ignore", as LISA's evaluation makes them, in exact numbers."""
    truth = [255 if i else int(t) for t, i in zip(target.flat, ignore.flat, strict=True)]
    output = [255 if t == 255 else int(p) for p, t in zip(predicted.flat, truth, strict=True)]
    both = [o for o, t in zip(output, truth, strict=True) if o == t].count(1)
    union = output.count(1) + truth.count(1) - both
    return both, union, both / (union + 1e-5) + (1.0 if union == 0 else 0.0)


@settings(max_examples=300, deadline=None)
@given(SPARSE, SPARSE, SPARSE)
def test_every_protocol_equals_naive_counting(predicted: Any, target: Any, ignore: Any) -> None:
    above, below, iou = naive_seg_zero(predicted, target, ignore)
    for protocol, empty in ((protocols.vision_reasoner, 0), (protocols.grefcoco, 1), (protocols.star, 1)):
        assert protocol(predicted, target, ignore) == protocols.Overlap(above, below, iou if below else empty)
    for protocol in (protocols.seg_zero, protocols.seg_zero_multi_object):
        assert protocol(predicted, target, ignore) == protocols.Overlap(above, below, iou, dropped=not below)
    ours = protocols.lisa(predicted, target, ignore)
    above, below, iou = naive_lisa(predicted, target, ignore)
    assert (ours.intersection, ours.union) == (above, below) and ours.iou == pytest.approx(iou, abs=1e-5)


@settings(deadline=None)
@given(SPARSE, SPARSE)
def test_the_protocols_differ_in_nothing_but_ignored_pixels_and_empty_unions(predicted: Any, target: Any) -> None:
    a, b = protocols.seg_zero(predicted, target), protocols.lisa(predicted, target)
    assert (a.intersection, a.union) == (b.intersection, b.union)
    assert a.iou == b.iou if a.union else (a.iou, b.iou) == (0, 1)


@settings(deadline=None)
@given(SPARSE, SPARSE, SPARSE, SPARSE)
def test_what_is_said_of_ignored_pixels_does_not_matter_to_lisa(p: Any, q: Any, target: Any, ignore: Any) -> None:
    changed = np.where(ignore, q, p)
    assert protocols.lisa(p, target, ignore) == protocols.lisa(changed, target, ignore)


@settings(deadline=None)
@given(MASKS, MASKS, MASKS)
def test_one_pixel_more_of_the_truth_never_scores_less(predicted: Any, target: Any, ignore: Any) -> None:
    for protocol in protocols.PROTOCOLS.values():
        before = protocol(predicted, target, ignore).iou
        assert 0 <= before <= 1
        for y, x in np.argwhere(target & ~ignore & ~predicted)[:3]:
            better = predicted.copy()
            better[y, x] = True
            assert protocol(better, target, ignore).iou > before


def test_ignored_pixels_that_are_predicted() -> None:
    target, ignore = pixels(0, 1), pixels(2, 3)
    assert protocols.seg_zero(pixels(0, 1), target, ignore).iou == 0.5
    assert protocols.lisa(pixels(0, 1), target, ignore).iou == 1
    assert protocols.seg_zero(pixels(0, 1, 2, 3), target, ignore).iou == 1
    assert protocols.lisa(pixels(0, 1, 2, 3), target, ignore).iou == 1


def test_nothing_found_where_nothing_is() -> None:
    assert protocols.seg_zero(NOTHING, NOTHING) == protocols.Overlap(0, 0, 0.0, dropped=True)
    assert protocols.lisa(NOTHING, NOTHING) == protocols.Overlap(0, 0, 1.0)
    assert protocols.lisa(pixels(1), NOTHING) == protocols.Overlap(0, 1, 0.0)


def test_an_answer_that_cannot_be_read_is_punished() -> None:
    target, ignore = pixels(0, 1), pixels(2)
    for name, protocol in protocols.PROTOCOLS.items():
        union = 2 if name == "lisa" else 3
        assert protocol(None, target, ignore) == protocols.Overlap(0, union, 0.0), name


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_no_readable_answer_where_nothing_is_to_be_found(name: str) -> None:
    """The two rules that give 1 for an empty union give it to an unreadable answer as well."""
    expected = 1 if name in ("grefcoco", "star") else 0
    assert protocols.PROTOCOLS[name](None, NOTHING) == protocols.Overlap(0, 0, expected)


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("seg-zero", False),
        ("seg-zero-multi-object", True),
        ("vision-reasoner", False),
        ("grefcoco", False),
        ("star", True),
        ("lisa", False),
    ],
)
def test_a_mask_step_that_fails_is_left_out_where_the_script_leaves_it_out(name: str, dropped: bool) -> None:
    found = protocols.PROTOCOLS[name](None, pixels(0, 1), failed=True)
    assert found == protocols.Overlap(0, 2, 0.0, dropped)


def test_a_box_without_a_mask_is_no_empty_answer_to_grefcocos_rule() -> None:
    assert protocols.grefcoco(NOTHING, NOTHING, boxes=1) == protocols.Overlap(0, 0, 0.0)
    assert protocols.grefcoco(None, NOTHING, boxes=0).iou == 1
    assert protocols.grefcoco(NOTHING, NOTHING, pixels(3), boxes=0).iou == 0, "ignored pixels are target"
    assert protocols.score(NOTHING, NOTHING, None, failed=False, boxes=1)["grefcoco"]["iou"] == 0


def test_stars_rule_gives_an_empty_union_the_whole_point_and_paints_ignored_pixels() -> None:
    assert protocols.star(NOTHING, NOTHING) == protocols.Overlap(0, 0, 1.0)
    assert protocols.star(pixels(2), pixels(0), pixels(2)) == protocols.Overlap(1, 2, 0.5)


def test_every_script_with_figures_has_its_protocol() -> None:
    named = {name: protocols.of_script(name) for name in SCRIPTS}
    assert named == {
        "seg-zero": "seg-zero",
        "seg-zero-multi-object": "seg-zero-multi-object",
        "vision-reasoner": "vision-reasoner",
        "star": "star",
        "star-qwen3": "star",
        "star-inference": "",
    }


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"predicted mask is \(3, 3\), the target \(4, 5\)"):
        protocols.lisa(np.zeros((3, 3), bool), NOTHING)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(SPARSE, SPARSE, st.booleans()), min_size=1, max_size=8))
def test_every_item_counts_and_the_published_means_stand_beside(items: list[tuple[Any, Any, bool]]) -> None:
    overlaps = [protocols.score(p, t, None, failed=f)["seg-zero-multi-object"] for p, t, f in items]
    found = protocols.summary(overlaps)
    assert found["n"] == len(items)
    ious, above, below, kept = [], 0, 0, []
    for predicted, target, failed in items:
        i, u, iou = naive_seg_zero(predicted, target, NOTHING)
        i, u, iou = (0, int(target.sum()), 0.0) if failed else (i, u, iou)
        ious.append(iou)
        above, below = above + i, below + u
        if not failed and u:
            kept.append(iou)
    assert found["giou"] == pytest.approx(sum(ious) / len(ious), abs=1e-4)
    assert (found["ciou"] is None) == (below == 0)
    assert below == 0 or found["ciou"] == pytest.approx(above / below, abs=1e-4)
    assert found["dropped"] == len(items) - len(kept)
    assert (found["published_giou"] is None) == (not kept)
    assert not kept or found["published_giou"] == pytest.approx(sum(kept) / len(kept), abs=1e-4)


BOX = st.tuples(*[st.integers(0, 9)] * 2, *[st.integers(1, 9)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


def naive_iou(a: Any, b: Any) -> float:
    wide, high = (max(0, min(a[n + 2], b[n + 2]) - max(a[n], b[n])) for n in (0, 1))
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - wide * high
    return wide * high / union if union else 0.0


@settings(deadline=None)
@given(st.lists(BOX, max_size=3), arrays(bool, (12, 12), elements=st.booleans(), fill=st.just(False)))
def test_the_lenient_box_accuracy_as_published(boxes: list[Any], target: Any) -> None:
    places = [(int(x), int(y)) for y, x in np.argwhere(target)]
    if not places:
        expected = not boxes
    else:
        xs, ys = zip(*places, strict=True)
        true = (min(xs), min(ys), max(xs), max(ys))
        candidates = list(boxes)
        if boxes:
            candidates.append(
                (*(min(b[n] for b in boxes) for n in (0, 1)), *(max(b[n] for b in boxes) for n in (2, 3)))
            )
        expected = any(naive_iou(b, true) > 0.5 for b in candidates)
    assert lenient_box_hit(boxes, target) == expected


def test_one_right_box_among_wrong_ones_is_a_lenient_hit() -> None:
    target = np.zeros((50, 50), bool)
    target[10:20, 10:20] = True
    assert lenient_box_hit([(40, 40, 45, 45), (10, 10, 20, 20)], target)
    assert lenient_box_hit([(10, 10, 20, 12), (10, 18, 20, 20)], target), "by the hull"
    assert not lenient_box_hit([(40, 40, 45, 45)], target)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20))
def test_counting_by_hand(pairs: list[tuple[int, int]]) -> None:
    found = counting([p for p, _ in pairs], [t for _, t in pairs])
    n = len(pairs)
    assert found["exact"] == pytest.approx(sum(p == t for p, t in pairs) / n, abs=1e-4)
    assert found["mae"] == pytest.approx(sum(abs(p - t) for p, t in pairs) / n, abs=1e-4)
    assert found["rmse"] == pytest.approx(math.sqrt(sum((p - t) ** 2 for p, t in pairs) / n), abs=1e-4)


class TestDetection:
    SMALL, LARGE = (0, 0, 20, 20), (0, 0, 90, 90)

    @staticmethod
    def item(true: list[Any], boxes: list[Any], category: str = "mug") -> dict[str, Any]:
        return {"size": (100, 100), "category": category, "true_boxes": true, "boxes": boxes}

    def test_right_boxes_win_all_and_none_nothing(self) -> None:
        right = self.item([self.SMALL, self.LARGE], [self.LARGE, self.SMALL])
        assert detection_ap([right])["AP"] == 1
        assert detection_ap([self.item([self.SMALL], [])])["AP"] == 0

    def test_the_published_confidence_is_area_so_a_large_mistake_ranks_first(self) -> None:
        items = [self.item([self.SMALL], [self.SMALL]), self.item([], [self.LARGE])]
        assert detection_ap(items)["AP"] == 0.5
        assert detection_ap(items, zero_without_target=True)["AP"] == 1, "as published, the truth helps to rank"

    def test_categories_are_averaged(self) -> None:
        items = [self.item([self.SMALL], [self.SMALL]), self.item([self.SMALL], [self.LARGE], "duck")]
        assert detection_ap(items) == {"AP": 0.5, "AP50": 0.5, "AP75": 0.5}

    def test_a_box_of_iou_six_tenths_counts_at_the_lower_bounds(self) -> None:
        found = detection_ap([self.item([(0, 0, 100, 10)], [(0, 0, 62, 10)])])
        assert found == {"AP": pytest.approx(0.3), "AP50": 1, "AP75": 0}  # .50, .55 and .60 of ten bounds

    def test_without_a_true_box_there_is_no_average_precision(self) -> None:
        with pytest.raises(ValueError, match="no item has a true box"):
            detection_ap([self.item([], [self.SMALL])])


class TestIntervals:
    def test_cover_the_mean_and_shrink_with_more_items(self) -> None:
        values = np.random.default_rng(0).random(400).tolist()
        (low, high), (few_low, few_high) = interval(values), interval(values[:25])
        assert low < np.mean(values) < high and high - low < few_high - few_low

    def test_large_and_small_numbers_of_items_are_drawn_alike(self) -> None:
        """Drawn in pieces, yet as if at once: figures given before stay the same."""
        values = np.random.default_rng(1).random(1500)
        drawn = np.random.default_rng(0).integers(0, 1500, (2000, 1500))
        expected = np.percentile(values[drawn].mean(1), [2.5, 97.5])
        assert interval(values.tolist()) == tuple(round(float(v), 4) for v in expected)

    def test_a_ratio_of_sums_is_not_a_mean_of_ratios(self) -> None:
        low, high = ratio_interval([1, 0], [1, 99])
        assert (low, high) == (0, 1)
