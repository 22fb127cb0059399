"""Our reading, scoring and prompts beside the published scripts, run for real from copies of their repositories:

    segzero-train compare-published parsers --repo ~/Seg-Zero ~/VisionReasoner ~/StAR
    segzero-train compare-published protocols --repo ~/Seg-Zero --n 2000
    segzero-train compare-published voting --repo ~/StAR
    segzero-train compare-published prompts --repo ~/StAR

parsers: what a text says in source pixels, on texts near the truth and hostile ones; protocols: every item's areas, the
items left out and the printed gIoU and cIoU, over random masks with images and boxes at which the segmenter fails;
voting: the same where one or five answers to each item vote, whose masks are their boxes; prompts: the words that a
model sees, in use and in training. One line of JSON each, the first differences on standard error, 1 if there is one.
The published code is not here: clone it. `segzero-train rewards` does the same for rewards.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.contract import Answer, Generation, LoadedModel, Status
from segzero_ros.core.geometry import mask_box
from segzero_ros.core.prompt import build_prompt
from segzero_ros.core.published import SCRIPTS, place, read_published
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import Profile, load_profile
from training.evaluation.asking import Voting, evaluate
from training.evaluation.figures import summarise
from training.evaluation.item_records import FORM
from training.evaluation.items import Asked, Case, Target
from training.evaluation.published_scripts import Machine, Outcome, Row, load_script, run_script, score_of
from training.measures.protocols import of_script
from training.rewards.compare import pairs

LIBRARY = "vision_reasoner/models/vision_reasoner_model.py"
# Of each script of core/published.py: the files whose parser it is.
PARSERS = {
    "seg-zero": ("evaluation_scripts/evaluation.py", "inference_scripts/infer.py"),
    "seg-zero-multi-object": (
        "evaluation_scripts/evaluation_visionreasoner.py",
        "inference_scripts/infer_multi_object.py",
    ),
    "vision-reasoner": (LIBRARY,),
    "star": ("evaluation_scripts/evaluation_star.py",),
    "star-qwen3": ("evaluation_scripts/evaluation_star.py",),
    "star-inference": ("inference_scripts/infer_multi_object.py",),
}
PROFILES = {
    "seg-zero": "seg-zero",
    "star": "star",
    "star-qwen3": "star-8b",
    "star-inference": "star",
}  # of a script; others: vision-reasoner


@dataclass(frozen=True)
class Run:
    """An evaluation that is run whole. figures: the file that prints them; protocol: by which ours are made; voting:
    over all that the reasoner says of an item, which otherwise is one thing."""

    script: str
    file: str
    figures: str
    protocol: str = ""
    library: str = ""
    arguments: tuple[str, ...] = ()
    voting: bool = False


_VISION_REASONER = "evaluation/evaluation_segmentation.py"
RUNS = (
    Run("seg-zero", "evaluation_scripts/evaluation.py", "evaluation_scripts/calculate_iou.py"),
    Run(
        "seg-zero-multi-object",
        "evaluation_scripts/evaluation_visionreasoner.py",
        "evaluation_scripts/calculate_iou.py",
    ),
    Run("vision-reasoner", _VISION_REASONER, "evaluation/calculate_iou_with_bbox.py", library=LIBRARY),
    Run("vision-reasoner", _VISION_REASONER, "evaluation/calculate_iou_with_bbox_nonobj.py", "grefcoco", LIBRARY),
    Run(
        "star",
        "evaluation_scripts/evaluation_star.py",
        "evaluation_scripts/calculate_iou.py",
        arguments=("--use_lora", "false"),
    ),
)
TRAINING = "verl/utils/rl_dataset.py"


@dataclass(frozen=True)
class Compared:
    """seen: different outcomes; a comparison that only sees refusals shows nothing."""

    what: str
    file: str
    n: int
    seen: int
    differences: list[Any]


def profile_of(script: str) -> Profile:
    return load_profile(PROFILES.get(script, "vision-reasoner"))


def _is_star(repo: Path) -> bool:
    return (repo / "evaluation_scripts/evaluation_star.py").is_file()


def _own(script: str, repo: Path) -> bool:
    """Whether a script is this repository's: StAR has files of Seg-Zero's names."""
    return script.startswith("star") == _is_star(repo)


# Parsers


def texts(rng: np.random.Generator, script: str, count: int, each: int = 1) -> Iterator[str]:
    """As `segzero-train rewards` makes them; for StAR's most objects have a label."""
    for text, _ in pairs(rng, "single" if script == "seg-zero" else "list", count, each):
        if script.startswith("star") and rng.random() < 0.7:
            text = text.replace('{"bbox_2d"', '{"label": "mug", "bbox_2d"')
        yield text


def _theirs(read: Callable[..., Any], text: str, width: int, height: int, script: str) -> Any:
    picture = {"is_qwen3": True, "image": SimpleNamespace(size=(width, height))} if script == "star-qwen3" else {}
    try:
        boxes, points = read(text, width / 840, height / 840, **picture)[:2]
    except Exception:
        return None
    boxes = [boxes] if script == "seg-zero" else boxes
    return [[float(v) for v in b] for b in boxes], [[float(v) for v in p] for p in points]


def _ours(answer: Answer, script: str, profile: Profile, width: int, height: int) -> Any:
    if answer.status.value == "PARSE_ERROR":
        return None
    found = place(answer.candidates, script, profile, height, width)
    return [list(c.box or ()) for c in found], [list(p) for c in found for p in c.points]


def compare_parsers(repo: Path, count: int, seed: int) -> Iterator[Compared]:
    for script, files in PARSERS.items():
        for file in files:
            if not _own(script, repo) or not (repo / file).is_file():
                continue
            module = load_script(repo / file)
            owner = getattr(module, "VisionReasonerModel", None)
            found = owner.__dict__["extract_bbox_points_think"].__get__(object()) if owner is not None else None
            read = found or module.extract_bbox_points_think
            profile, rng = profile_of(script), np.random.default_rng(seed)
            wrong, seen = [], set()
            for text in texts(rng, script, count):
                width, height = (int(v) for v in rng.integers(20, 2000, 2))
                with contextlib.redirect_stdout(io.StringIO()):
                    theirs = _theirs(read, text, width, height, script)
                ours = _ours(read_published(text, script), script, profile, width, height)
                if script == "vision-reasoner" and ours is None:
                    ours = [], []  # the library goes on without objects where it cannot read
                seen.add(repr(theirs))
                if ours != theirs:
                    wrong.append({"text": text, "ours": ours, "theirs": theirs})
            yield Compared(f"parser {script}", file, count, len(seen), wrong)


# Whole evaluations


def hashed_masks(fails: bool) -> Callable[[Any, Any, tuple[int, int]], NDArray[np.bool_]]:
    """Masks that any other box or point changes; some are empty, and with `fails` some boxes raise."""

    def mask(box: Any, points: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
        numbers = [float(v) for v in box] + [float(v) for p in points for v in p]
        seed = int.from_bytes(hashlib.blake2b(repr((numbers, size)).encode(), digest_size=8).digest(), "big")
        if fails and seed % 11 == 0:
            raise RuntimeError("this box cannot be segmented")
        rng = np.random.default_rng(seed)
        return rng.random(size) < float(rng.choice([0.0, 0.1, 0.5, 0.9]))

    return mask


def broken(image: Any) -> bool:
    """Whether the segmenter fails at an image."""
    return int(image[0, 0, 0]) < 12


_WORDS = [
    "the mug",
    "The  Red",
    ".",
    "?",
    "!",
    '"',
    "'",
    " ",
    "\n",
    "\t",
    "{",
    "}",
    "\u0130",
    "\u1e9e",
    "\u00e9",
    "\u3002",
    "a. b",
]


def instruction(rng: np.random.Generator) -> str:
    return "".join(str(w) for w in rng.choice(_WORDS, int(rng.integers(0, 8))))


def rows(rng: np.random.Generator, script: str, count: int) -> list[Row]:
    out = []
    for text in texts(rng, script, count):
        size = tuple(int(v) for v in rng.integers(4, 20, 2))
        mask = rng.random(size) < float(rng.choice([0.0, 0.2, 0.7]))
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        if read_published(text, script).status is Status.NO_OBJECT:
            image[0, 0] = 255  # the scripts encode the image before they see that there is no box, ours does not
        out.append(Row(image, mask, instruction(rng), (text,)))
    return out


def boxed(box: Any, _: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The box itself as its mask, empty where it has no pixel."""
    mask = np.zeros(size, bool)
    x1, y1, x2, y2 = (max(0, int(v)) for v in box)
    mask[y1:y2, x1:x2] = True
    return mask


NOTHING = "<think>none</think><answer>[]</answer>"


def voted_rows(rng: np.random.Generator, count: int, votes: int) -> list[Row]:
    """Answers to one item are about the same objects; some say that there is none, some cannot be read."""
    said = texts(rng, "star", count, votes)
    out = []
    for _ in range(count):
        empty = float(rng.choice([0.0, 0.1, 0.4, 0.7]))
        answers = tuple(NOTHING if rng.random() < empty else next(said) for _ in range(votes))
        size = tuple(int(v) for v in rng.integers(20, 90, 2))
        mask = rng.random(size) < float(rng.choice([0.0, 0.2, 0.7]))
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        found = {read_published(answer, "star").status for answer in answers}
        if Status.OK not in found or Status.NO_OBJECT in found:
            image[0, 0] = 255  # ours encodes an image where an object is said alone
        out.append(Row(image, mask, instruction(rng), answers))
    return out


class _Saying:
    """A reasoner that says the rows' texts in turn."""

    info = LoadedModel("scripted", "", 0, "none", "none", 0)

    def __init__(self, some: Sequence[Row]) -> None:
        self.said = iter([text for row in some for text in row.said])

    def generate(self, squares: list[Any], prompts: list[str], **_: Any) -> list[Generation]:
        return [Generation(next(self.said), 1, 1, False, False, 0.0) for _ in prompts]


class _Masking:
    info = _Saying.info

    def __init__(self, masks: Callable[..., NDArray[np.bool_]]) -> None:
        self.masks = masks

    def encode(self, image: Any, **_: Any) -> Any:
        if broken(image):
            raise RuntimeError("this image cannot be encoded")
        return image.shape[:2]

    def segment(self, features: Any, boxes: Any, points: Any, **_: Any) -> list[tuple[Any, float]]:
        found = [self.masks(b, p, features) for b, p in zip(boxes, points, strict=True)]
        return [(mask, score_of(mask)) for mask in found]


def _pipeline(script: str, some: Sequence[Row], masks: Callable[..., Any]) -> Pipeline:
    profile = replace(profile_of(script), max_new_tokens=SCRIPTS[script].max_new_tokens)
    pipeline = Pipeline(_Saying(some), _Masking(masks), profile)  # type: ignore[arg-type]
    pipeline.script = script
    return pipeline


def ours_of(run: Run, some: Sequence[Row], masks: Callable[..., Any]) -> Outcome:
    """What our evaluation makes of the same rows."""

    def read(row: Row) -> Asked:
        box = mask_box(row.mask)
        return Asked(row.text, row.image, () if box is None else (Target(box, None, row.mask),))

    cases = [Case(str(n), "row", lambda row=row: read(row)) for n, row in enumerate(some)]  # type: ignore[misc]
    pipeline = _pipeline(run.script, some, masks)
    voting = Voting(len(some[0].said), 1.0, 0.9, 0) if run.voting else None
    records = evaluate(pipeline, cases, batch=16, voting=voting, alone=0, latency_items=0)
    name = run.protocol or of_script(run.script)
    scored = {r["index"]: r["protocols"][name] for r in records}
    items = {n: (s["intersection"], s["union"]) for n, s in scored.items() if not s["dropped"]}
    found = summarise({"form": FORM, "script": run.script}, records)["protocols"][name]
    return Outcome(items, {"gIoU": found["published_giou"], "cIoU": found["published_ciou"]})


def theirs_of(repo: Path, run: Run, some: Sequence[Row], masks: Callable[..., Any]) -> Outcome:
    library = repo / run.library if run.library else None
    machine = Machine(some, masks, broken)
    return run_script(repo / run.file, repo / run.figures, machine, library=library, arguments=run.arguments)


def _runs(repo: Path) -> Iterator[Run]:
    for run in RUNS:
        if all((repo / f).is_file() for f in (run.file, run.figures, run.library) if f):
            yield run


def compare_protocols(repo: Path, count: int, seed: int) -> Iterator[Compared]:
    for run in _runs(repo):
        # The library keeps the masks made before one fails, which ours does not: there images alone fail.
        masks = hashed_masks(fails=not run.library)
        some = rows(np.random.default_rng(seed), run.script, count)
        wrong, seen = _outcomes(repo, run, some, masks)
        yield Compared(f"protocol {run.protocol or of_script(run.script)}", run.figures, count, seen, wrong)


def _outcomes(repo: Path, run: Run, some: Sequence[Row], masks: Callable[..., Any]) -> tuple[list[Any], int]:
    """Differences, and how many outcomes there are."""
    theirs, ours = theirs_of(repo, run, some, masks), ours_of(run, some, masks)
    numbers = range(len(some))
    wrong: list[Any] = [
        {"row": n, "ours": ours.items.get(n), "theirs": theirs.items.get(n), "text": some[n].said}
        for n in numbers
        if ours.items.get(n) != theirs.items.get(n)
    ]
    for name, value in theirs.printed.items():
        if name in ours.printed and ours.printed[name] != value:
            wrong.append({"figure": name, "ours": ours.printed[name], "theirs": value})
    return wrong, len({theirs.items.get(n) for n in numbers})


def compare_voting(repo: Path, count: int, seed: int) -> Iterator[Compared]:
    for run in _runs(repo):
        for votes in (1, 5) if run.script == "star" else ():
            told = (*run.arguments, "--use_majority_voting", "true", "--num_samples", str(votes))
            some = voted_rows(np.random.default_rng(seed), count, votes)
            wrong, seen = _outcomes(repo, replace(run, arguments=told, voting=True), some, boxed)
            yield Compared(f"voting {run.script}, of {votes}", run.file, count, seen, wrong)


# Prompts


def compare_prompts(repo: Path, count: int, seed: int) -> Iterator[Compared]:
    for run in _runs(repo):
        if run.protocol:
            continue  # the same prompts again
        some = rows(np.random.default_rng(seed), run.script, count)
        masks = hashed_masks(fails=False)
        theirs, pipeline = theirs_of(repo, run, some, masks), _pipeline(run.script, some, masks)
        ours = [pipeline.reasoning.prompt(row.image, row.text) for row in some]
        wrong = _unequal([row.text for row in some], ours, theirs.prompts)
        if theirs.tokens != {pipeline.profile.max_new_tokens}:
            wrong.append({"tokens": sorted(theirs.tokens), "ours": pipeline.profile.max_new_tokens})
        yield Compared(f"prompt {run.script}", run.file, count, len(set(theirs.prompts)), wrong)
    if (repo / TRAINING).is_file():
        for name in ("star-stage-1", "star-stage-2") if _is_star(repo) else ("vision-reasoner",):
            rng = np.random.default_rng(seed)
            problems = [instruction(rng) for _ in range(count)]
            told = training_prompts(repo / TRAINING, problems, {"is_stage2": True} if name.endswith("2") else {})
            profile = replace(profile_of("star" if name.startswith("star") else ""), prompt=name)
            ours = ["<image>\n" + build_prompt(profile, problem, training=True) for problem in problems]
            yield Compared(f"training prompt {name}", TRAINING, count, len(set(told)), _unequal(problems, ours, told))


def _unequal(problems: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> list[Any]:
    if len(ours) != len(theirs):
        return [{"ours": len(ours), "theirs": len(theirs)}]
    both = zip(problems, ours, theirs, strict=True)
    return [{"instruction": p, "ours": a, "theirs": b} for p, a, b in both if a != b]


class _Told(Exception):
    """Ends a published loader where the words are known."""


def training_prompts(file: Path, problems: Sequence[str], more: dict[str, Any]) -> list[str]:
    """The user's turns that a published loader of training data makes."""
    module = load_script(file)
    data = {"train": [{"problem": problem} for problem in problems]}
    module.load_from_disk = lambda _: data  # type: ignore[attr-defined]
    told: list[str] = []

    class Tokenizer:
        def apply_chat_template(self, messages: Any, **_: Any) -> str:
            told.append(messages[-1]["content"])
            raise _Told

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            rows_of = module.RLHFDataset("rows", Tokenizer(), Tokenizer(), system_prompt="You are.", **more)
        for n in range(len(problems)):
            with contextlib.suppress(_Told):
                rows_of[n]
    except Exception as error:
        raise ValueError(f"{file} ended with {error!r}") from error
    return told


MODES = {
    "parsers": (compare_parsers, 20_000),
    "protocols": (compare_protocols, 1000),
    "voting": (compare_voting, 300),
    "prompts": (compare_prompts, 500),
}


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="segzero-train compare-published", description=(__doc__ or "").split("\n")[0])
    p.add_argument("mode", choices=sorted(MODES))
    p.add_argument("--repo", type=Path, nargs="+", required=True, help="copies of published repositories")
    p.add_argument(
        "--n", type=int, help=f"of each comparison; by itself {', '.join(f'{m}: {n}' for m, (_, n) in MODES.items())}"
    )
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args(argv)
    compare, count = MODES[a.mode]
    count = count if a.n is None else a.n
    if count < 1 or a.seed < 0:
        p.error("--n must be at least 1, --seed at least 0")
    failed = False
    try:
        for repo in a.repo:
            found = list(compare(repo, count, a.seed))
            if not found:
                raise ValueError(f"{repo} holds none of the published files that {a.mode} are compared with")
            for one in found:
                for case in one.differences[:5]:
                    print(json.dumps(case)[:600], file=sys.stderr)
                told = {"what": one.what, "file": one.file, "n": one.n, "seen": one.seen}
                print(json.dumps(told | {"differences": len(one.differences)}), flush=True)
                failed |= bool(one.differences)
    except (ValueError, OSError) as error:
        p.error(str(error))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
