"""The command `segzero-train`: one subcommand per step of the way, each a module that runs by itself too."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "prepare": ("training.data.prepare", "annotated images to rows that a reasoner is trained on"),
    "train": ("training.finetune.run", "run a configuration of training/configs: --dry-run, --shrink, or for real"),
    "evaluate": (
        "training.evaluation.evaluate",
        "figures with intervals, per-item records, by every published protocol",
    ),
    "compare": ("training.evaluation.compare", "two runs on the same items, paired"),
    "abilities": (
        "training.evaluation.abilities",
        "what it could do before: questions of standard sets or over the tabletop",
    ),
    "export": ("training.finetune.export", "a trained checkpoint to a folder that the node loads"),
    "compare-published": (
        "training.evaluation.against_published",
        "parsers, protocols, voting and prompts beside the published scripts",
    ),
    "rewards": ("training.rewards.compare", "a reward beside another implementation"),
}


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: segzero-train COMMAND ...\n")
        for name, (_, what) in COMMANDS.items():
            print(f"  {name:{width}}  {what}")
        return 0
    name, *rest = given
    if name not in COMMANDS:
        print(f"segzero-train: no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return int(importlib.import_module(COMMANDS[name][0]).main(rest) or 0)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "training", "segzero_ros"):
            raise  # a fault of ours
        print(f"segzero-train: {name} needs {error.name}; `make setup` installs what training needs", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
