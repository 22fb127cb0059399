"""docs/rewards.md says what the code does: its tables are the code's, and errors cost where it says that they cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from training.measures import markdown
from training.rewards import PROFILES, Profile, plots
from training.rewards.plots import EXPLOITS, NONE, RIGHT, SHOWN, WRONG, Case, Picture, curve, pays, winnings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "rewards.md"
PUBLISHED = ("seg-zero", "seg-zero-soft", "article", "vision-reasoner", "star", "star-code")
OURS = ("segzero", "segzero-soft", "segzero-answer", "segzero-mask")
HALVES = {f"{p.name}, {title}": (p, square, cases) for p in plots.PICTURES for title, square, cases in p.halves}


def sums(profile: str, half: str) -> dict[float, float]:
    _, square, cases = HALVES[half]
    x, terms = curve(PROFILES[profile], square, list(cases()))
    return dict(zip(x, np.sum(list(terms.values()), axis=0), strict=True))


def last(profile: str, half: str, term: str) -> float:
    """The largest x at which the term is won."""
    _, square, cases = HALVES[half]
    x, terms = curve(PROFILES[profile], square, list(cases()))
    return max(at for at, value in zip(x, terms[term], strict=True) if value == max(terms[term]))


@pytest.mark.parametrize("name", plots.TABLES)
def test_the_tables_of_the_page_are_what_the_code_says(name: str) -> None:
    assert markdown.read(PAGE, name) == plots.TABLES[name](), (
        "run python -m training.rewards.plots --page docs/rewards.md"
    )


def test_the_page_shows_every_picture() -> None:
    page = PAGE.read_text()
    for picture in plots.PICTURES:
        assert f"(pictures/rewards-{picture.name}.png)" in page
        assert (PAGE.parent / "pictures" / f"rewards-{picture.name}.png").is_file()


def test_every_profile_but_chance_is_shown() -> None:
    assert {p.name for p in SHOWN} == set(PROFILES) - {"random"}


class TestErrors:
    @pytest.mark.parametrize("profile", [p for p in SHOWN if p.pixels], ids=lambda p: p.name)
    @pytest.mark.parametrize(("picture", "what"), [("l1", "box L1"), ("points", "point")])
    @pytest.mark.parametrize("square", plots.SQUARES)
    def test_the_thresholds_that_a_profile_states_are_its_codes(
        self, profile: Profile, picture: str, what: str, square: int
    ) -> None:
        limit = next(v for k, v in profile.pixels.items() if k.startswith(what)) * square / 840
        _, _, cases = HALVES[f"{picture}, square {square}"]
        x, terms = curve(profile, square, list(cases()))
        term = next(t for t in ("box_l1" if picture == "l1" else "point_l1", "points", "accuracy") if t in terms)
        before, after = (terms[term][x.index(at)] for at in (math.ceil(limit) - 1, math.ceil(limit)))
        assert after <= before - 1, "a pixel more costs the term, or its part of the accuracy"

    @pytest.mark.parametrize(("half", "pixels"), [("l1, square 840", 9), ("l1, square 224", 2)])
    def test_the_l1_that_is_still_won(self, half: str, pixels: int) -> None:
        assert last("seg-zero", half, "box_l1") == last("article", half, "box_l1") == pixels
        assert last("vision-reasoner", half, "accuracy") == last("segzero", half, "accuracy") == pixels

    @pytest.mark.parametrize(("half", "two", "one"), [("points, square 840", 99, 29), ("points, square 224", 26, 7)])
    def test_the_distance_of_points_that_is_still_won(self, half: str, two: int, one: int) -> None:
        assert last("seg-zero", half, "point_l1") == last("article", half, "points") == two
        assert last("vision-reasoner", half, "accuracy") == last("segzero", half, "accuracy") == one

    @pytest.mark.parametrize("half", ["iou, square 840", "iou, square 224"])
    def test_a_worse_box_never_wins_more(self, half: str) -> None:
        for profile in ("seg-zero", "vision-reasoner", "segzero", "segzero-soft"):
            found = sums(profile, half)
            assert list(found.values()) == sorted(found.values())
            assert found[1.0] == PROFILES[profile].maximum

    def test_a_repeated_sentence_costs_from_the_third_on_and_only_where_the_page_says(self) -> None:
        half = "thought, one sentence repeated"
        found = sums("vision-reasoner", half)
        assert (found[10], found[15], found[300]) == (7, 7, 6)
        assert set(sums("seg-zero", half).values()) == {5.0}

    def test_length_is_priced_between_120_and_240_words_in_ours(self) -> None:
        found = sums("segzero", "thought, new words")
        assert found[0] == 0
        assert found[5] == found[100] == 4
        assert 3.5 < found[200] < 4
        assert found[240] == found[300] == 3.5

    def test_saying_that_there_is_none(self) -> None:
        for profile, right, wrong in (("vision-reasoner", 2, 4), ("segzero", 4, 1)):
            found = sums(profile, "objects, none is")
            assert (found[0], found[1]) == (right, wrong)

    def test_the_right_number_of_objects_is_best(self) -> None:
        for profile in ("vision-reasoner", "segzero"):
            found = sums(profile, "objects, three are true")
            assert max(found, key=lambda count: found[count]) == 3
        assert {v for n, v in sums("seg-zero", "objects, three are true").items() if n} == {5.0}


class TestExploits:
    def test_each_published_reward_has_some_and_ours_none(self) -> None:
        won = {p.name: winnings(p) for p in SHOWN}
        paying = {name: {e.name for e in EXPLOITS if pays(e, rows)} for name, rows in won.items()}
        assert all(len(paying[name]) >= 4 for name in PUBLISHED)
        assert not any(paying[name] for name in OURS), paying

    def test_a_right_answer_wins_all_and_limits_are_rows(self) -> None:
        for p in SHOWN:
            assert winnings(p)[RIGHT] == pytest.approx(p.maximum)
        assert {e.limit for e in EXPLOITS} <= {"", RIGHT, WRONG, NONE}


def test_a_picture_is_drawn_whole_or_not_at_all(tmp_path: Path) -> None:
    right = (plots.large(224, 340),)

    def cases() -> Iterator[Case]:
        return iter([Case(0, right, right), Case(1, right, ())])

    plots.draw(Picture("few", "A few", "objects", (("a", 224, cases), ("b", 224, cases))), tmp_path / "few.png")
    assert [p.name for p in tmp_path.iterdir()] == ["few.png"]
    assert (tmp_path / "few.png").read_bytes().startswith(b"\x89PNG")
