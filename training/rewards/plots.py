"""Rewards against errors as pictures, and what known exploits win as a table: what docs/rewards.md shows.

    python -m training.rewards.plots --out docs/pictures --page docs/rewards.md

Every number is computed by the profiles themselves, from texts that a model could have written. Profiles with masks get
a segmenter whose masks are the boxes, so that a mask's IoU is the box's. `random` has no error to be plotted against.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.measures import markdown
from training.rewards import PROFILES, Profile
from training.rewards.texts import SQUARE, scaled

SHOWN = tuple(p for p in PROFILES.values() if p.name != "random")
SQUARES = (SQUARE, 224)
THOUGHT = "The red one is what is asked for."


@dataclass(frozen=True)
class Thing:
    """An object: box XYXY and two points inside, pixels of the square; lists have the first point only."""

    box: tuple[int, int, int, int]
    first: tuple[int, int]
    second: tuple[int, int]


@dataclass(frozen=True)
class Case:
    """What is true, what is said, and where on the x axis that is."""

    x: float
    true: tuple[Thing, ...]
    said: tuple[Thing, ...]
    thought: str = THOUGHT


class Boxes:
    """A segmenter whose masks are the boxes."""

    def encode(self, image: Any) -> Any:
        return image.shape[:2]

    def segment(self, features: Any, boxes: Any, points: Any) -> list[tuple[NDArray[np.bool_], float]]:
        return [(filled(box, features), 1.0) for box in boxes]


def filled(box: Sequence[float], size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, bool)
    x1, y1, x2, y2 = (max(0, round(v)) for v in box)
    mask[y1:y2, x1:x2] = True
    return mask


# Texts ------------------------------------------------------------------------------------------------------------


def answer(profile: Profile, things: Sequence[Thing]) -> str:
    """The JSON in the profile's form; of "single" the object alone where there is one."""
    if profile.solution == "single":
        said = [{"bbox": t.box, "points_1": t.first, "points_2": t.second} for t in things]
        return json.dumps(said[0] if len(said) == 1 else said)
    return json.dumps([{"bbox_2d": t.box, "point_2d": t.first, "label": "mug"} for t in things])


def text(profile: Profile, things: Sequence[Thing], thought: str = THOUGHT) -> str:
    body = f"<answer>{answer(profile, things)}</answer>"
    return body if profile.name == "segzero-answer" else f"<think>{thought}</think>{body}"


def solution(profile: Profile, things: Sequence[Thing]) -> str:
    """As in the published datasets' column."""
    if profile.solution == "list":
        return json.dumps([{"bbox_2d": t.box, "point_2d": t.first} for t in things])
    t = things[0]
    corners, points = ("({},{}),({},{})".format(*v) for v in (t.box, t.first + t.second))
    return f"<box>{corners}</box><points>{points}</points>"


def parts(profile: Profile, texts: Sequence[str], true: Sequence[tuple[Thing, ...]], square: int) -> dict[str, Any]:
    """Weighted terms, each a list with a value per text."""
    given: dict[str, Any] = {"square": square}
    if profile.needs_masks:
        size = (square, square)
        known = {things: np.array([filled(t.box, size) for t in things]).reshape(-1, *size) for things in set(true)}
        image = np.zeros((*size, 3), np.uint8)
        given |= {"masks": [known[things] for things in true], "images": [image] * len(texts), "segmenter": Boxes()}
    found = profile.parts(texts, [solution(profile, things) for things in true], **given)
    return {name: [profile.weights.get(name, 1.0) * v for v in values] for name, values in found.items()}


# Errors -----------------------------------------------------------------------------------------------------------


def scale(square: int, *numbers: int) -> Any:
    return tuple(round(v * square / SQUARE) for v in numbers)


def large(square: int, x: int) -> Thing:
    """Large, so that box and points can be moved apart from each other. x: of its points, pixels of 840."""
    return Thing(scale(square, 40, 100, 640, 700), scale(square, x, 320), scale(square, x, 480))


def growing_boxes(square: int) -> Iterator[Case]:
    """A small box grows on all sides: its IoU falls, its points stay."""
    x1, y1, x2, y2 = scale(square, 360, 360, 480, 480)
    true = Thing((x1, y1, x2, y2), scale(square, 400, 400), scale(square, 440, 440))
    for by in range(x1):
        iou = (x2 - x1) * (y2 - y1) / ((x2 - x1 + 2 * by) * (y2 - y1 + 2 * by))
        yield Case(iou, (true,), (Thing((x1 - by, y1 - by, x2 + by, y2 + by), true.first, true.second),))


def shifted_boxes(square: int) -> Iterator[Case]:
    """A large box is shifted to the lower right: its IoU stays high, its points stay."""
    t = large(square, 340)
    x1, y1, x2, y2 = t.box
    for by in range(15):
        yield Case(by, (t,), (Thing((x1 + by, y1 + by, x2 + by, y2 + by), t.first, t.second),))


def shifted_points(square: int) -> Iterator[Case]:
    """The points move to the right, inside of the box, which stays."""
    t = large(square, 60)
    for by in range(121):
        moved = [(p[0] + by, p[1]) for p in (t.first, t.second)]
        yield Case(by, (t,), (Thing(t.box, moved[0], moved[1]),))


def longer_thoughts(repeated: bool) -> Iterator[Case]:
    """By words: ever new ones, or one sentence of five words again and again."""
    t = large(SQUARE, 340)
    for words in range(0, 301, 5):
        new = " ".join(f"word{n}" for n in range(words))
        yield Case(words, (t,), (t,), "It is the red one. " * (words // 5) if repeated else new)


def more_objects(true: int) -> Iterator[Case]:
    """As many as there are, first the true ones, then others."""
    boxes = [(40 + 200 * (n % 4), 40 + 200 * (n // 4)) for n in range(9)]
    things = tuple(Thing((x, y, x + 100, y + 120), (x + 40, y + 50), (x + 60, y + 80)) for x, y in boxes)
    for count in range(9):
        yield Case(count, things[:true], things[:count])


@dataclass(frozen=True)
class Picture:
    """halves: title, square and cases of the left and the right half of each profile's panel."""

    name: str
    title: str
    x: str
    halves: tuple[tuple[str, int, Callable[[], Iterator[Case]]], ...]


def _by_square(name: str, title: str, x: str, cases: Callable[[int], Iterator[Case]]) -> Picture:
    return Picture(name, title, x, tuple((f"square {s}", s, partial(cases, s)) for s in SQUARES))


PICTURES = (
    _by_square("iou", "Box too large: IoU", "IoU with the true box", growing_boxes),
    _by_square("l1", "Box shifted: L1", "mean L1, pixels of the square", shifted_boxes),
    _by_square("points", "Points shifted inside of the box", "distance, pixels of the square", shifted_points),
    Picture(
        "thought",
        "Length of the thought of a right answer",
        "words",
        (
            ("new words", SQUARE, lambda: longer_thoughts(False)),
            ("one sentence repeated", SQUARE, lambda: longer_thoughts(True)),
        ),
    ),
    Picture(
        "objects",
        "Number of objects, the true ones first",
        "objects in the answer",
        (
            ("three are true", SQUARE, lambda: more_objects(3)),
            ("none is", SQUARE, lambda: more_objects(0)),
        ),
    ),
)


def curve(profile: Profile, square: int, cases: Sequence[Case]) -> tuple[list[float], dict[str, list[float]]]:
    """x, and per term a value for each. Nothing where the profile's solutions cannot say what is true."""
    if profile.solution == "single":  # one is true, whatever else
        cases = [Case(c.x, c.true[:1], c.said, c.thought) for c in cases if c.true]
    cases = sorted(cases, key=lambda c: c.x)
    texts = [text(profile, c.said, c.thought) for c in cases]
    return [c.x for c in cases], parts(profile, texts, [c.true for c in cases], square)


# From the bottom of a stack to its top: what hardly depends on the error stands below.
COLORS = {
    "thinking_format": "#9ecae1",
    "tags": "#9ecae1",
    "answer_format": "#4292c6",
    "format": "#6baed6",
    "non_repeat": "#bdbdbd",
    "box_iou": "#fdae6b",
    "box_l1": "#e6550d",
    "points": "#31a354",
    "point_l1": "#31a354",
    "accuracy": "#fd8d3c",
    "masks": "#9e9ac8",
    "length": "#d6616b",
}


def draw(picture: Picture, path: Path) -> None:
    """One panel per profile: its terms stacked, the sum as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(15, 10.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(picture.title, fontsize=15)
    columns = 3
    panels: Any = figure.subfigures(-(-(len(SHOWN) + 1) // columns), columns)
    used: dict[str, str] = {}
    for profile, panel in zip(SHOWN, panels.flat, strict=False):
        panel.suptitle(f"{profile.name}, at most {profile.maximum:g}", fontsize=11)
        for axes, (title, square, cases) in zip(panel.subplots(1, 2, sharey=True), picture.halves, strict=True):
            one = picture.name == "objects" and profile.solution == "single"
            axes.set_title(title.replace("three are", "one is") if one else title, fontsize=9)
            axes.set_ylim(-0.7, profile.maximum + 0.5)
            axes.tick_params(labelsize=8)
            axes.axhline(0, color="black", lw=0.6)
            axes.set_xlabel(picture.x, fontsize=8)
            x, terms = curve(profile, square, list(cases()))
            if not x:
                axes.set_xticks([])
                axes.text(0.5, 0.5, "its solutions\nhave an object", ha="center", transform=axes.transAxes, fontsize=8)
                continue
            # Gains upwards, prices downwards from nought.
            base = {sign: np.zeros(len(x)) for sign in (1, -1)}
            for name, values in sorted(terms.items(), key=lambda term: list(COLORS).index(term[0])):
                sign = -1 if min(values) < 0 else 1
                top = base[sign] + np.array(values)
                used[name] = COLORS[name]
                axes.fill_between(x, base[sign], top, step="mid", color=COLORS[name], lw=0)
                base[sign] = top
            axes.plot(x, base[1] + base[-1], color="black", lw=1, drawstyle="steps-mid")
            axes.set_xlim(*((1, 0) if picture.name == "iou" else (min(x), max(x))))  # to the right it gets worse
            axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes = panels.flat[len(SHOWN)].subplots()
    axes.axis("off")
    shown = {name: color for name, color in COLORS.items() if name in used}
    same = {"tags": "thinking_format", "points": "point_l1"}  # one colour, one line
    labels = {
        name: name + "".join(f", {other}" for other, first in same.items() if first == name and other in used)
        for name in shown
        if same.get(name) not in used
    }
    handles = [Patch(color=COLORS[name], label=text) for name, text in labels.items()]
    line = axes.plot([], [], color="black", lw=1, label="sum")
    axes.legend(handles=[*handles, *line], loc="center", ncols=2, fontsize=10, frameon=False, title="terms, stacked")
    part = path.with_name(f".{path.name}")
    figure.savefig(part, dpi=100, format="png")
    part.replace(path)


# Exploits ---------------------------------------------------------------------------------------------------------

MUG = Thing((300, 200, 420, 340), (340, 260), (380, 290))
DUCK = Thing((520, 520, 640, 640), (570, 560), (600, 590))
RIGHT, WRONG, NONE = "the right answer", "another object, in the right form", "nothing there, and an empty list"


@dataclass(frozen=True)
class Exploit:
    """write: the text, for a profile. limit: a row of the table; more than it wins is a loophole, or as much, where
    `less`. true: nothing, for instructions that nothing matches."""

    name: str
    write: Callable[[Profile], str]
    limit: str = ""
    less: bool = False
    true: tuple[Thing, ...] = (MUG,)


def _grid() -> tuple[Thing, ...]:
    corners = [(x, y) for y in range(0, 800, 100) for x in range(0, 800, 100)]
    return tuple(Thing((x, y, x + 90, y + 90), (x + 40, y + 40), (x + 50, y + 50)) for x, y in corners)[:63]


EXPLOITS = (
    Exploit(RIGHT, lambda p: text(p, [MUG])),
    Exploit(WRONG, lambda p: text(p, [DUCK])),
    Exploit("an empty text", lambda p: "", WRONG),
    Exploit("right, the JSON in the thought, no answer", lambda p: _in_thought(p), WRONG),
    Exploit("right, the JSON alone, no tags", lambda p: answer(p, [MUG]), WRONG),
    Exploit("right, in tags, a thought without a word", lambda p: f"<think></think>{_answer_part(p)}", WRONG),
    Exploit("right, then a second answer", lambda p: text(p, [MUG]) + text(p, [DUCK]), WRONG),
    Exploit(
        "points right, the box is the image",
        lambda p: text(p, [Thing((0, 0, SQUARE, SQUARE), MUG.first, MUG.second)]),
        WRONG,
    ),
    Exploit("right, said twice", lambda p: text(p, [MUG, MUG]), RIGHT, True),
    Exploit("right, and a grid of 63 boxes", lambda p: text(p, [MUG, *_grid()]), RIGHT, True),
    Exploit("right, 500 words of thought", lambda p: text(p, [MUG], " ".join(map(str, range(500)))), RIGHT, True),
    Exploit("right, one sentence 100 times", lambda p: text(p, [MUG], "It is red. " * 100), RIGHT, True),
    Exploit("the same without full stops", lambda p: text(p, [MUG], "it is red, " * 100), RIGHT, True),
    Exploit("something there, and an empty list", lambda p: text(p, []), WRONG),
    Exploit(NONE, lambda p: text(p, []), true=()),
    Exploit("nothing there, and some object", lambda p: text(p, [DUCK]), NONE, True, ()),
)


def _answer_part(profile: Profile) -> str:
    return f"<answer>{answer(profile, [MUG])}</answer>"


def _in_thought(profile: Profile) -> str:
    return f"<think>{answer(profile, [MUG])}</think><answer></answer>"


def winnings(profile: Profile) -> dict[str, float]:
    """The sum that each text wins at 840. Left out: what the profile's solutions cannot say, and changes to a thought
    where there is none."""
    right = text(profile, [MUG])
    rows = [
        e for e in EXPLOITS if (e.true or profile.solution == "list") and (e.name == RIGHT or e.write(profile) != right)
    ]
    terms = parts(profile, [e.write(profile) for e in rows], [e.true for e in rows], SQUARE)
    return {e.name: float(sum(values)) for e, values in zip(rows, zip(*terms.values(), strict=True), strict=True)}


def pays(exploit: Exploit, won: dict[str, float]) -> bool:
    if not exploit.limit or exploit.name not in won:
        return False
    mine, limit = won[exploit.name], won[exploit.limit]
    # A reward without steps pays the whole image for the little that it overlaps; a hundredth of a point is no exploit.
    return mine > limit - 1e-9 if exploit.less else mine > limit + 0.05


def exploit_table() -> str:
    """Bold is what pays and should not."""
    won = {p.name: winnings(p) for p in SHOWN}
    rows = []
    for e in EXPLOITS:
        cells = [f"{won[p.name][e.name]:.3g}" if e.name in won[p.name] else "" for p in SHOWN]
        rows.append([e.name, *(f"**{c}**" if pays(e, won[p.name]) else c for c, p in zip(cells, SHOWN, strict=True))])
    return markdown.table(["what is written", *(p.name for p in SHOWN)], rows)


def profile_table() -> str:
    rows = [
        [f"`{p.name}`", f"{p.maximum:g}", ", ".join(f"`{name}`" for name in p.terms), thresholds(p), p.source]
        for p in PROFILES.values()
    ]
    return markdown.table(["profile", "at most", "terms", "pixels at 840 (at 224)", "source"], rows)


def thresholds(profile: Profile) -> str:
    return ", ".join(f"{what} < {v:g} ({scaled(v, 224):.3g})" for what, v in profile.pixels.items()) or "none"


TABLES = {"profiles": profile_table, "exploits": exploit_table}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.rewards.plots", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="folder of the pictures")
    parser.add_argument("--page", type=Path, help="the page whose tables are written; on the terminal otherwise")
    a = parser.parse_args(argv)
    for name, make in TABLES.items():
        if a.page:
            markdown.write(a.page, name, make())
        else:
            print(make(), end="\n\n")
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        for picture in tqdm(PICTURES, desc="pictures", unit="picture"):
            draw(picture, a.out / f"rewards-{picture.name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
