"""Another implementation beside ours: `segzero-train rewards vision-reasoner path/to/file.py:function --n 1000000`.

The function takes a completion and a solution and gives a number; it must be equal, bit by bit, on random and hostile
texts. The published code is not in this repository: clone theirs and give its path.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from training.rewards import PROFILES

CHUNK = 1000  # pairs of one seed

_WORDS = 'NaN Infinity -Infinity 1e999 -5 3.7 "12" null true [] {} 9007199254740993 [1,2] \u00b2'
_ODD = [*_WORDS.split(" "), "1" * 400, ""]
_MARKS = """<think> </think> <answer> </answer> { } [ ] , : " ' . ```json bbox points_1 bbox_2d point_2d label"""
_PIECES = [*_MARKS.split(" "), "\n", " ", "\u2003", "\x1c", "\u00e9", "a. a. a."]
_KEYS = ["bbox", "bbox_2d", "BBox", "points_1", "points_2", "point_1", "point_2", "Points", "point_2d", "label"]


def pairs(rng: np.random.Generator, kind: str, count: int, each: int = 1) -> Iterator[tuple[str, str]]:
    """Completions and solutions, `each` in a row of one solution: near the truth, right in form, wrong in form, and
    hostile."""
    for _ in range(count):
        solution, objects = _single(rng) if kind == "single" else _list(rng)
        for _ in range(each):
            text = _write(rng, objects, kind)
            for _ in range(int(rng.choice([0, 0, 1, 2, 6]))):
                text = _hurt(rng, text)
            yield text, solution


def _box(rng: np.random.Generator) -> list[int]:
    x, y = (int(v) for v in rng.integers(0, 700, 2))
    w, h = (int(v) for v in rng.integers(1, 140, 2))
    return [x, y, x + w, y + h]


def _inside(rng: np.random.Generator, box: list[int]) -> list[int]:
    return [int(rng.integers(box[0], box[2] + 1)), int(rng.integers(box[1], box[3] + 1))]


def _single(rng: np.random.Generator) -> tuple[str, list[dict[str, Any]]]:
    box = _box(rng)
    a, b = _inside(rng, box), _inside(rng, box)
    x1, y1, x2, y2 = box
    text = f"<box>({x1},{y1}),({x2},{y2})</box><points>({a[0]},{a[1]}),({b[0]},{b[1]})</points>"
    return text if rng.random() < 0.98 else text[: len(text) // 2], [{"bbox": box, "points_1": a, "points_2": b}]


def _list(rng: np.random.Generator) -> tuple[str, list[dict[str, Any]]]:
    count = int(rng.choice([0, 1, 2, 3, 5, 130], p=[0.05, 0.6, 0.2, 0.1, 0.045, 0.005]))
    boxes = [_box(rng) for _ in range(count)]
    objects = [{"bbox_2d": b, "point_2d": _inside(rng, b)} for b in boxes]
    return json.dumps(objects), objects


def _moved(rng: np.random.Generator, values: list[int]) -> list[Any]:
    scale = float(rng.choice([0, 2, 8, 12, 40, 300]))
    shifted = [v + scale * float(d) for v, d in zip(values, rng.standard_normal(len(values)), strict=True)]
    return shifted if rng.random() < 0.2 else [round(v) for v in shifted]


def _write(rng: np.random.Generator, objects: list[dict[str, Any]], kind: str) -> str:
    said = [{k: _moved(rng, v) for k, v in o.items()} for o in objects]
    if rng.random() < 0.1 and said:
        said.append(said[int(rng.integers(len(said)))])
    if rng.random() < 0.1:
        said = said[1:]
    rng.shuffle(said)  # type: ignore[arg-type]
    for o in said:
        for key in list(o):
            if rng.random() < 0.03:
                o[str(rng.choice(_KEYS))] = o.pop(key)
            elif rng.random() < 0.02:
                o[key] = o[key][:-1]
    body = json.dumps(said[0] if kind == "single" and said and rng.random() < 0.9 else said)
    thought = str(rng.choice(["", "It is red.", "A. B. A. B. A.", "no stop", body]))
    gap = str(rng.choice(["", "\n", "  ", "x"], p=[0.6, 0.2, 0.15, 0.05]))
    return f"<think>{thought}</think>{gap}<answer>{body if rng.random() < 0.95 else ''}</answer>"


def _hurt(rng: np.random.Generator, text: str) -> str:
    at = int(rng.integers(0, len(text) + 1))
    piece = str(rng.choice(_ODD if rng.random() < 0.5 else _PIECES))
    match int(rng.integers(0, 5)):
        case 0:
            return text[:at] + piece + text[at:]
        case 1:
            return text[:at] + text[at + int(rng.integers(1, 12)) :]
        case 2:
            return text[:at]
        case 3:
            return text[:at] + text[max(0, at - 40) : at] + text[at:]
        case _:
            # In the place of a number.
            digits = [i for i, c in enumerate(text) if c.isdigit()]
            if not digits:
                return text
            start = end = digits[int(rng.integers(len(digits)))]
            while end < len(text) and text[end].isdigit():
                end += 1
            return text[:start] + piece + text[end:]


def load(path: str) -> Callable[[str, str], float]:
    """`file.py:function`, run as a module of its own. Raises ValueError."""
    file, _, name = path.rpartition(":")
    if not file or not Path(file).is_file():
        raise ValueError(f"{path}: expected FILE.py:FUNCTION of a file that exists")
    spec = importlib.util.spec_from_file_location("compared", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{file} cannot be run: {error!r}") from error
    function: Callable[[str, str], float] | None = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{file} has no function {name}")
    return function


def differences(
    profile: str, other: str, count: int, seed: int, *, workers: int = 1, silent: bool = True
) -> tuple[list[dict[str, Any]], int]:
    """Where the sums differ, and how many different sums occurred: a comparison that only sees zeros shows nothing.

    other: as `load` takes it. workers: processes; every CHUNK pairs have a seed of their own, so that the result does
    not depend on their number. Raises RuntimeError that shows the pair where the other implementation raises.
    """
    chunks = [(profile, min(CHUNK, count - start), [seed, start // CHUNK]) for start in range(0, count, CHUNK)]
    found: list[dict[str, Any]] = []
    values: set[str] = set()
    with tqdm(total=count, disable=silent, desc=profile) as bar, ExitStack() as stack:
        if workers > 1:
            # Fresh interpreters: whatever the file holds when it is run, every process runs it.
            pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin, initargs=(other,))
            done = stack.enter_context(pool).map(_chunk, chunks)
        else:
            _begin(other)
            done = map(_chunk, chunks)
        for more, sums, pairs_done in done:
            found += more
            values |= sums
            bar.update(pairs_done)
    return found, len(values)


_other: Callable[[str, str], float]  # of this process


def _begin(path: str) -> None:
    global _other
    _other = load(path)


def _chunk(given: tuple[str, int, list[int]]) -> tuple[list[dict[str, Any]], set[str], int]:
    """Differences and sums (written out, since a NaN is no other one) of some pairs, and their number."""
    profile, count, seed = given
    known = PROFILES[profile]
    known = replace(known, terms={name: term for name, term in known.terms.items() if name != "masks"})
    found: list[dict[str, Any]] = []
    values: set[str] = set()
    for text, solution in pairs(np.random.default_rng(seed), known.solution, count):
        ours = known.score([text], [solution])[0]
        try:
            with np.errstate(all="ignore"):
                theirs = float(_other(text, solution))
        except (Exception, SystemExit) as error:  # by its text: not every exception comes through a pipe
            raise RuntimeError(f"the other raised {error!r} at {json.dumps([text, solution])[:600]}") from error
        values.add(repr(theirs + 0.0))  # -0 is 0
        if ours != theirs:
            found.append({"text": text, "solution": solution, "ours": ours, "theirs": theirs})
    return found, values, count


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="segzero-train rewards", description="Compare a reward with another implementation."
    )
    parser.add_argument("profile", choices=sorted(PROFILES))
    parser.add_argument("other", help="FILE.py:FUNCTION")
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes; the result is the same for any number")
    arguments = parser.parse_args(argv)
    if arguments.n < 1 or arguments.workers < 1 or arguments.seed < 0:
        parser.error("--n and --workers must be at least 1, --seed at least 0")
    if PROFILES[arguments.profile].needs_masks:
        print(f"{arguments.profile}: texts alone are compared, without what masks win", file=sys.stderr)
    try:
        load(arguments.other)
        found, values = differences(
            arguments.profile, arguments.other, arguments.n, arguments.seed, workers=arguments.workers, silent=False
        )
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    for case in found[:5]:
        print(json.dumps(case)[:600], file=sys.stderr)
    print(json.dumps({"n": arguments.n, "differences": len(found), "different_sums": values}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
