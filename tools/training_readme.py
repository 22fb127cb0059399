"""What the code writes into training/README.md: where the article's parts are, and every configuration in a line.

    python -m tools.training_readme          # tests/test_readme.py says when it is due

Memory and hours are those of `segzero-train train NAME --dry-run`: estimates.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.finetune import configuration, dry_run
from training.finetune import model as models
from training.finetune.configuration import Configuration
from training.measures import markdown

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "training" / "README.md"
_REWARDS = "training/rewards/"

# The article's part, where it is here (file and name), and what the published code does that the paper does not say.
PARTS: tuple[tuple[str, tuple[tuple[str, str], ...], str], ...] = (
    (
        "prompt with an example",
        (("segzero_ros/core/prompt.py", "SEG_ZERO"), ("segzero_ros/core/prompt.py", "VISION_REASONER")),
        "the example has single quotes, which `json.loads` refuses: a literal imitation wins the tags alone",
    ),
    (
        "image of 840 x 840",
        (("training/data/rows.py", "square_of"),),
        "the aspect is ignored; area interpolation in training, bilinear in use",
    ),
    (
        "true box and two points",
        (("training/data/objects.py", "published_points"), ("training/data/objects.py", "largest_circles")),
        "the second point is not the second largest circle's centre but the deepest pixel farther from the first "
        "than the median one",
    ),
    (
        "reward: thinking format",
        ((_REWARDS + "seg_zero.py", "thinking_format"), (_REWARDS + "article.py", "tags")),
        "1 for the whole form or 0, not 0.5 per pair of tags; an empty thought passes",
    ),
    (
        "reward: answer format",
        ((_REWARDS + "seg_zero.py", "answer_format_strict"), (_REWARDS + "seg_zero.py", "answer_format_soft")),
        "the JSON may stand anywhere, in the thought too: 4 of 5 without any tag",
    ),
    (
        "reward: box IoU",
        ((_REWARDS + "seg_zero.py", "box_iou"), (_REWARDS + "article.py", "box_iou")),
        "above 0.5, not at it; sides are one pixel longer (+1)",
    ),
    ("reward: box L1", ((_REWARDS + "seg_zero.py", "box_l1"),), "the mean of the four differences"),
    (
        "reward: point L1",
        ((_REWARDS + "seg_zero.py", "point_l1"), (_REWARDS + "article.py", "points")),
        "the mean Euclidean distance of the better pairing, not L1; inside of the predicted box, of any size",
    ),
    (
        "soft accuracy (table 6)",
        ((_REWARDS + "seg_zero.py", "box_iou_soft"), (_REWARDS + "seg_zero.py", "SOFT_ACCURACY")),
        "not in the published code",
    ),
    (
        "several objects",
        ((_REWARDS + "vision_reasoner.py", "form"), (_REWARDS + "vision_reasoner.py", "accuracy")),
        "answer format up to 2, in the paper 1; an empty list is wrong also where nothing is to be found",
    ),
    (
        "segmenter in the loop",
        ((_REWARDS + "star.py", "PAPER"), (_REWARDS + "star.py", "CODE"), (_REWARDS + "star.py", "STAGE_2")),
        "StAR's scripts have five tiers and a point for the number of objects, its paper three and none",
    ),
    (
        "many answers, few learnt from",
        (("training/finetune/grpo.py", "best_and_worst"),),
        "StAR's scripts sample 256 (7B), 128 (32B) or 64 (8B) and keep 16; where many won alike one may be kept twice",
    ),
    (
        "GRPO",
        (("training/finetune/grpo.py", "arguments"), ("training/finetune/grpo.py", "build")),
        "an entropy bonus of 1e-3 that no paper names; KL 5e-3, in VisionReasoner's scripts 1e-2; n = 8 in scripts, "
        "16 in the last tables; 2k rows in the yaml, 9k in the paper; a fork of verl on FSDP, in the paper DeepSpeed",
    ),
    ("supervised baseline", (("training/finetune/sft.py", "build"),), "neither code nor learning rate is published"),
    (
        "answer to masks",
        (("segzero_ros/core/answer.py", "parse_answer"), ("segzero_ros/core/pipeline.py", "Pipeline")),
        "an unreadable answer ends the script; SAM 2.0; of three masks the one with the best predicted score",
    ),
    (
        "gIoU, cIoU",
        (("training/measures/protocols.py", "seg_zero"), ("training/measures/protocols.py", "lisa")),
        "ReasonSeg's ignored regions are painted as target; items whose mask step raises count as missed (`seg-zero`) "
        "or silently leave the mean (`seg-zero-multi-object`)",
    ),
    (
        "box accuracy",
        (("training/measures/metrics.py", "lenient_box_hit"), ("training/measures/metrics.py", "box_accuracy")),
        "VisionReasoner: any predicted box, or the hull of all, makes a hit",
    ),
    ("question answering kept", (("training/evaluation/question_sets.py", "SETS"),), "no code is published"),
    ("voting (StAR)", (("training/measures/voting.py", "vote"),), "batches of one where it votes, of 32 elsewhere"),
)

HEAD = ["configuration", "answers", "hardware", "GB of one GPU", "hours", "run here"]
ARXIV = re.compile(r" \(arXiv (\d+\.\d+)\)")  # said once above the tables, not in every line
# What was run here beyond --shrink.
RUN_HERE = {
    "demo_grpo": "the demo profile's weights, tried",
    "tabletop_grpo": "the experiment",
    "tabletop_sft": "the experiment",
}
_DIMENSIONS: dict[configuration.Model, tuple[dry_run.Sizes, Any]] = {}  # many files share a model


def line_of(file: str, name: str) -> int:
    """Where a module's name is defined. Raises ValueError."""
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node.lineno
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return node.lineno
    raise ValueError(f"{file} has no {name}")


def article_table() -> str:
    def link(file: str, name: str) -> str:
        line = line_of(file, name)
        near = file.removeprefix("training/")
        return f"[`{near}:{line}`]({near if near != file else '../' + file}#L{line}) `{name}`"

    rows = [[part, ", ".join(link(*place) for place in places), more] for part, places, more in PARTS]
    return markdown.table(["the article's part", "here", "what the published code does besides"], rows)


def estimates(c: Configuration) -> tuple[float, float, float]:
    """GB of one GPU in the larger phase, of the host beside it, and hours; 0 where the number of rows is not known."""
    if c.model not in _DIMENSIONS:
        model = dry_run.meta_model(c)
        _DIMENSIONS[c.model] = dry_run.sizes(model), model.config
    s, config = _DIMENSIONS[c.model]
    tokens = models.image_tokens(c, config)
    gpu, host = dry_run.memory(c, s, config, tokens)
    updates = dry_run.updates_of(c)
    spent = sum(dry_run.hours(c, s, config, tokens, updates).values()) if updates else 0.0
    return max(dry_run.together(c, gpu).values()), sum(host.values()), spent


def line(path: Path) -> list[str]:
    """The cells of a configuration."""
    c = configuration.load(str(path))
    memory, host, hours = estimates(c)
    embedded = c.model.architecture == "embedded"
    if embedded:  # the estimate knows of no shared prefix and assumes published lengths; the file's figure does not
        hours = c.hardware.hours or 0.0
    where = "2 CPU cores" if embedded else f"{c.hardware.gpus} x {c.hardware.memory:g} GB"
    if c.hardware.sharding != "none":
        where += f", {c.hardware.sharding}"
    return [
        f"`{c.name}`",
        ARXIV.sub("", c.answers),
        where + (f", {c.rollout}" if c.method == "grpo" and not embedded else ""),
        f"{memory:.1f}" + (f" + {host:.0f} host" if host else ""),
        f"{hours:.1f}" if hours else "",
        RUN_HERE.get(c.name, "`--shrink`"),
    ]


def tables(silent: bool = True) -> dict[str, str]:
    """Markdown by the name of its place: `article`, `recipes` and `ablations`."""
    paths = configuration.every()
    lines = {path: line(path) for path in tqdm(paths, desc="dry runs", unit="file", disable=silent)}
    recipes = [cells for path, cells in lines.items() if path.parent == configuration.FOLDER]
    ablations = [cells for path, cells in lines.items() if path.parent != configuration.FOLDER]
    return {
        "article": article_table(),
        "recipes": markdown.table(HEAD, recipes),
        "ablations": markdown.table(HEAD, ablations),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.training_readme", description=__doc__.partition("\n")[0])
    parser.add_argument("--page", type=Path, default=PAGE)
    a = parser.parse_args(argv)
    for name, text in tables(silent=False).items():
        markdown.write(a.page, name, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
