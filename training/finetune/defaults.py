"""Every default of TRL's two configurations, pinned, and what ours make of it.

`python -m training.finetune.defaults CONFIG` prints the table of one configuration; `--write` pins the defaults of the
installed TRL, after an update whose changes have been looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path
from typing import Any

from training.finetune import configuration
from training.finetune.configuration import Configuration

FILE = Path(__file__).with_name("trl_defaults.json")


def defaults(kind: type) -> dict[str, Any]:
    """A configuration class's fields and their defaults, as JSON has them."""
    found = {}
    for f in fields(kind):
        value = f.default_factory() if f.default is MISSING and f.default_factory is not MISSING else f.default
        found[f.name] = "(required)" if value is MISSING else _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, (bool, int, float, str, list, dict, type(None))) else str(value)


def kinds() -> dict[str, type]:
    from trl import GRPOConfig, SFTConfig

    return {"GRPOConfig": GRPOConfig, "SFTConfig": SFTConfig}


def changes() -> list[str]:
    """What the installed TRL's defaults differ in from the pinned ones, a line each."""
    pinned = json.loads(FILE.read_text(encoding="utf-8"))
    found = []
    for name, kind in kinds().items():
        now, then = defaults(kind), pinned[name]
        for key in sorted(set(now) | set(then)):
            if key not in then:
                found.append(f"{name}.{key} is new: {now[key]!r}")
            elif key not in now:
                found.append(f"{name}.{key} is gone; it was {then[key]!r}")
            elif now[key] != then[key]:
                found.append(f"{name}.{key} was {then[key]!r} and is {now[key]!r}")
    return found


def table(c: Configuration) -> list[tuple[str, Any, Any, str]]:
    """Per field: name, TRL's default, the value that the trainer gets, and how that came about.

    "overridden" or "stated" (the same) by the configuration; "kept"; "worked out" by TRL and the library from others.
    """
    from training.finetune.grpo import shared

    if c.method == "grpo":
        from training.finetune.grpo import arguments

        name: str = "GRPOConfig"
        args: Any = arguments(c)
        own = {"gradient_accumulation_steps", "num_generations_eval", "use_vllm", "vllm_mode", "reward_weights"}
    else:
        from training.finetune.sft import arguments as sft_arguments

        name, args, own = "SFTConfig", sft_arguments(c), {"gradient_accumulation_steps"}
    said = {*c.arguments, *shared(c), *own}
    rows = []
    for key, default in defaults(kinds()[name]).items():
        ours = _plain(getattr(args, key))
        same, other = ("stated", "overridden") if key in said else ("kept", "worked out")
        rows.append((key, default, ours, same if ours == default else other))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.finetune.defaults", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("config", nargs="?", default="seg_zero_3b")
    parser.add_argument("--write", action="store_true", help="pin the defaults of the installed TRL")
    args = parser.parse_args(argv)
    if args.write:
        found = {name: defaults(kind) for name, kind in kinds().items()}
        FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    # No GPU is asked for, to print a table.
    try:
        c = configuration.load(args.config, ["trl.use_cpu=true", "trl.bf16=false"])
    except configuration.ConfigurationError as error:
        parser.error(str(error))
    for key, default, ours, how in table(c):
        print(f"{key:44} {how:10} {default!s:28} {ours!s}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
