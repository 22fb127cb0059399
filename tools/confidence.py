"""Whether a confidence tells right objects from wrong ones: asked again on rendered tabletop scenes.

    python -m training.data.tabletop.store build/tabletop --split test      # and test-ood: the scenes
    python tools/confidence.py ask build/tabletop --split test --split test-ood --n 300
    python tools/confidence.py show --page docs/confidence.md --picture docs/pictures/confidence.png

`ask` writes one JSON line per question and goes on where it was stopped; `show` makes everything from these lines.
An object is right where its mask has an IoU of at least 0.5 with a true one; in an answer to a question that nothing
matches every object is wrong. Answers without objects have no confidence and are in no curve.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from segzero_ros.core.confidence import best_iou
from segzero_ros.core.contract import Box, PackedMask, Status
from segzero_ros.core.geometry import box_iou, pack
from segzero_ros.core.steps import Deadline, Progress, Thought
from segzero_ros.core.verifying import Again
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile
from training.data.tabletop.evaluation import questions
from training.data.tabletop.store import Scenes
from training.evaluation.items import Asked, tabletop_cases
from training.measures import markdown
from training.measures.records import Record, RecordFile, load

SAMPLES = 16
RIGHT = 0.5  # IoU with a true mask
BINS = 10
LEAST = 60  # objects for a row
RESAMPLES = 1000
THRESHOLDS = (0.5, 0.75, 0.9)
SHIPPED = ("mean IoU of 8",)
RESULTS = Path(__file__).resolve().parent.parent / "training" / "experiments" / "results" / "confidence.json"


def ask(pipeline: Pipeline, asked: Asked, samples: int) -> Record:
    """An answer, and what asking again says of each of its objects."""
    began = time.perf_counter()
    result = pipeline.segment(asked.image, asked.text)
    seconds = {"plain": time.perf_counter() - began}
    objects: list[Record] = []
    if result.instances:
        again = Again(
            pipeline.reasoning, pipeline.segmenting, asked.image, asked.text, Deadline(None, None), Progress()
        )
        began = time.perf_counter()
        texts = again.sample(samples)
        seconds["vote"] = time.perf_counter() - began
        began = time.perf_counter()
        masks = again.masks(texts)
        seconds["vote_masks"] = time.perf_counter() - began
        true = [pack(t.mask) for t in asked.targets if t.mask is not None]
        for i in result.instances:
            box = i.prompt_box or i.box
            objects.append(
                {
                    "score": float(i.score),
                    "iou": best_iou(i.packed, true),
                    "vote": [_iou(i.packed, t, m) for t, m in zip(texts, masks, strict=True)],
                    "vote_box": [_box_iou(box, t) for t in texts],
                }
            )
    return {"status": result.status.value, "targets": len(asked.targets), "objects": objects, "seconds": seconds}


def _iou(mask: PackedMask, thought: Thought, masks: Sequence[PackedMask]) -> float | None:
    """None where the text cannot be read."""
    return None if thought.answer.status is Status.PARSE_ERROR else round(best_iou(mask, masks), 4)


def _box_iou(box: Box, thought: Thought) -> float | None:
    if thought.answer.status is Status.PARSE_ERROR:
        return None
    return round(max((box_iou(box, c.box) for c in thought.candidates if c.box), default=0.0), 4)


def ask_all(a: argparse.Namespace) -> None:
    pipeline = Pipeline.load(load_profile(a.profile), reasoner=a.reasoner, segmenter=a.segmenter, trial=False)
    todo = []
    for split in a.split or ["test", "test-ood"]:
        scenes = Scenes(a.data / split)
        items = questions(scenes, a.n, a.seed, ood=split == "test-ood")
        cases = tabletop_cases(scenes, items, f"{split}-{a.seed}")
        settings = {"split": split, "seed": a.seed, "model": pipeline.model}
        file = RecordFile(a.records / f"{split}.jsonl", settings)
        todo.append([(n, case, file) for n, case in enumerate(cases) if n not in file.done])
    # in turn, so that a run that is stopped has as many of each
    longest = max(map(len, todo), default=0)
    order = [items[n] for n in range(longest) for items in todo if n < len(items)]
    for n, case, file in tqdm(order, desc="asking again", unit="question"):
        made = ask(pipeline, case.read(), a.samples)
        file.append([{"index": n, "id": case.id, "kind": case.kind, **made}])


# -- figures of the records


@dataclass(frozen=True)
class Way:
    """One way to a confidence. value: of an object's record, None where the way has none."""

    name: str
    value: Callable[[Record], float | None]


def _share(k: int, iou: float, key: str = "vote") -> Callable[[Record], float | None]:
    def value(o: Record) -> float | None:
        read = [v for v in o[key][:k] if v is not None]
        return sum(v >= iou for v in read) / len(read) if 2 * len(read) >= k and len(o[key]) >= k else None

    return value


def _mean(k: int, key: str = "vote") -> Callable[[Record], float | None]:
    def value(o: Record) -> float | None:
        read = [v for v in o[key][:k] if v is not None]
        return sum(read) / len(read) if 2 * len(read) >= k and len(o[key]) >= k else None

    return value


WAYS = (
    Way("score", lambda o: o["score"]),
    *(Way(f"mean IoU of {k}", _mean(k)) for k in (4, 8, 16)),
    Way("mean IoU of 8, boxes", _mean(8, "vote_box")),
    Way("share of 8, IoU 0.5", _share(8, 0.5)),
    Way("share of 8, IoU 0.7", _share(8, 0.7)),
)


def auc(sure: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Chance that a right object is surer than a wrong one, equal ones counted half; NaN without one of either."""
    ranks = rankdata(sure)
    n, m = int(right.sum()), int((~right).sum())
    return float((ranks[right].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def ece(sure: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error over ten bins of equal width."""
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    return sum(abs(right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))


def resampled(
    figure: Callable[[NDArray[np.float64], NDArray[np.bool_]], float],
    sure: NDArray[np.float64],
    right: NDArray[np.bool_],
    question: NDArray[np.int64],
    other: NDArray[np.float64] | None = None,
) -> tuple[float, float]:
    """95 % bootstrap interval over questions; with `other`, of the difference from its figure."""
    rng = np.random.default_rng(0)
    names = np.unique(question)
    where = [np.flatnonzero(question == n) for n in names]
    values = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([where[i] for i in rng.integers(0, len(names), len(names))])
        value = figure(sure[drawn], right[drawn])
        values.append(value if other is None else value - figure(other[drawn], right[drawn]))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return round(float(low), 3), round(float(high), 3)


def rows(split: str, records: Sequence[Record]) -> list[Record]:
    """Of each way its figures, over the objects of which it knows a confidence."""
    out = []
    objects = [(n, o) for n, r in enumerate(records) for o in r["objects"]]
    for way in WAYS:
        known = [(n, o, v) for n, o in objects if (v := way.value(o)) is not None]
        if len(known) < LEAST:
            continue
        question = np.array([n for n, _, _ in known])
        sure = np.array([v for _, _, v in known])
        right = np.array([o["iou"] >= RIGHT for _, o, _ in known])
        score = np.array([o["score"] for _, o, _ in known])
        most = np.argsort(-sure, kind="stable")[: round(0.8 * len(sure))]
        out.append(
            {
                "split": split,
                "way": way.name,
                "questions": len(records),
                "objects": len(known),
                "wrong": int((~right).sum()),
                "right": round(float(right.mean()), 3),
                "auc": round(auc(sure, right), 3),
                "auc_ci": resampled(auc, sure, right, question),
                "gain": round(auc(sure, right) - auc(score, right), 3),
                "gain_ci": resampled(auc, sure, right, question, score),
                "ece": round(float(ece(sure, right)), 3),
                "ece_ci": resampled(ece, sure, right, question),
                "surest": round(float(right[most].mean()), 3),
                "bins": _bins(sure, right),
                "threshold": {f"{t:g}": _threshold(records, way, t) for t in THRESHOLDS},
            }
        )
    return out


def _bins(sure: NDArray[np.float64], right: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """(mean confidence, share right, objects) of each of five bins that has any."""
    bins = np.minimum((sure * 5).astype(int), 4)
    return [
        (round(float(sure[bins == b].mean()), 3), round(float(right[bins == b].mean()), 3), int((bins == b).sum()))
        for b in np.unique(bins)
    ]


def _threshold(records: Sequence[Record], way: Way, least: float) -> dict[str, float]:
    """What is left with min_confidence: objects that stay, and the shares of right and of wrong ones among them."""
    objects = [(o["iou"] >= RIGHT, v) for r in records for o in r["objects"] if (v := way.value(o)) is not None]
    right, wrong = ([v >= least for good, v in objects if good == kind] for kind in (True, False))
    return {
        "right_kept": round(float(np.mean(right)), 3) if right else float("nan"),
        "wrong_kept": round(float(np.mean(wrong)), 3) if wrong else float("nan"),
    }


def cost(records: Sequence[Record]) -> dict[str, tuple[float, ...]]:
    """Seconds of asking again, in those of the plain answer, over the same questions, both sums; its 95 % interval."""
    some = [r for r in records if r["objects"]]
    rng = np.random.default_rng(0)
    found = {}
    for k in sorted({len(r["objects"][0]["vote"]) for r in some}):
        mine = [r for r in some if len(r["objects"][0]["vote"]) == k]
        spent = np.array([r["seconds"]["vote"] + r["seconds"]["vote_masks"] for r in mine])
        plain = np.array([r["seconds"]["plain"] for r in mine])
        drawn = rng.integers(0, len(mine), (RESAMPLES, len(mine)))
        low, high = np.percentile(spent[drawn].sum(1) / plain[drawn].sum(1), [2.5, 97.5])
        found[f"{k} samples"] = tuple(round(float(v), 2) for v in (spent.sum() / plain.sum(), low, high))
    return found


def table(found: Sequence[Record]) -> str:
    head = [
        "split",
        "way",
        "questions",
        "objects (wrong)",
        "AUC",
        "AUC, more than score",
        "ECE",
        "right among the surest 80 %",
    ]
    lines = []
    for r in found:
        gain = "" if r["way"] == "score" else f"{r['gain']:+.3f} {_between(r['gain_ci'])}"
        auc_, ece_ = (f"{r[f]:.3f} {_between(r[f + '_ci'])}" for f in ("auc", "ece"))
        of = f"{r['surest']:.3f} (of all {r['right']:.3f})"
        objects = f"{r['objects']} ({r['wrong']})"
        lines.append([r["split"], r["way"], str(r["questions"]), objects, auc_, gain, ece_, of])
    return markdown.table(head, lines)


def threshold_table(found: Sequence[Record]) -> str:
    head = ["split", "way", *(f"min_confidence {t:g}" for t in THRESHOLDS)]
    lines = []
    for r in (r for r in found if r["way"] in SHIPPED):
        cells = [f"{v['right_kept']:.0%} of right, {v['wrong_kept']:.0%} of wrong" for v in r["threshold"].values()]
        lines.append([r["split"], r["way"], *cells])
    return markdown.table(head, lines)


def _between(interval: Sequence[float]) -> str:
    return f"[{interval[0]:.2f}, {interval[1]:.2f}]"


def draw(found: Sequence[Record], path: Path) -> None:
    """Confidence against the share of right objects, a panel for each split; a larger dot is more objects."""
    from matplotlib.figure import Figure

    splits = list(dict.fromkeys(r["split"] for r in found))
    figure = Figure(figsize=(4 * len(splits), 3.6), layout="constrained")
    for axes, split in zip(figure.subplots(1, len(splits), squeeze=False)[0], splits, strict=True):
        axes.plot([0, 1], [0, 1], color="0.8", zorder=0)
        for r in (r for r in found if r["split"] == split and r["way"] in ("score", *SHIPPED)):
            x, y, n = np.array(r["bins"]).T
            (line,) = axes.plot(x, y, label=f"{r['way']}, AUC {r['auc']:.2f}")
            axes.scatter(x, y, s=4 + 120 * n / n.sum(), color=line.get_color())
        axes.set(title=split, xlabel="confidence", ylabel="share of right objects", xlim=(0, 1.02), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    part = path.with_name(f".{path.name}")
    figure.savefig(part, dpi=90, format="png")
    part.replace(path)


def show(a: argparse.Namespace) -> None:
    found: list[Record] = []
    both: list[Record] = []
    for path in sorted(a.records.glob("*.jsonl"), reverse=True):
        _, records = load([path], "objects")
        found += rows(path.stem, records)
        both += records
    costs = cost(both)
    if len({r["split"] for r in found}) > 1:
        found += rows("both", both)
    a.results.write_text(json.dumps({"rows": found, "cost": costs, "questions": len(both)}, indent=1) + "\n")
    print(table(found), threshold_table(found), costs, sep="\n\n")
    if a.page:
        markdown.write(a.page, "curve", table(found))
        markdown.write(a.page, "threshold", threshold_table(found))
        ratios = [[way, f"{ratio:.2f} {_between(interval)}"] for way, (ratio, *interval) in costs.items()]
        markdown.write(a.page, "cost", markdown.table(["way", "seconds, in those of the plain answer"], ratios))
    if a.picture:
        draw(found, a.picture)


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = p.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("ask", help="answers, asked again")
    asking.add_argument("data", type=Path, help="folder of the rendered splits")
    asking.add_argument("--split", action="append", help="test and test-ood unless given; may be repeated")
    asking.add_argument("--n", type=int, default=300, help="questions per split")
    asking.add_argument("--seed", type=int, default=0)
    asking.add_argument("--samples", type=int, default=SAMPLES)
    asking.add_argument("--profile", default="demo")
    asking.add_argument("--reasoner")
    asking.add_argument("--segmenter")
    showing = commands.add_parser("show", help="table and picture of what was asked")
    showing.add_argument("--results", type=Path, default=RESULTS)
    showing.add_argument("--page", type=Path)
    showing.add_argument("--picture", type=Path)
    for command in (asking, showing):
        command.add_argument("--records", type=Path, default=Path("build/confidence"))
    a = p.parse_args(argv)
    (ask_all if a.command == "ask" else show)(a)
    return 0


if __name__ == "__main__":
    sys.exit(main())
