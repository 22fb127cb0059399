"""`python -m training.engines.mismatch prompts|sample|score|report`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from segzero_ros.profiles import load_profile
from training.engines import mismatch
from training.engines.mismatch.by_transformers import Transformers
from training.engines.mismatch.by_vllm import VLLM
from training.engines.mismatch.completions import Completion, Engine, read_lines, write_lines
from training.engines.mismatch.prompts import Prompts, prepared, read_prompts, tabletop, write_prompts
from training.engines.mismatch.report import figures, picture, table


def _engine(arguments: argparse.Namespace, prompts: Prompts) -> Engine:
    if arguments.engine == "vllm":
        if arguments.dtype == "autocast":
            raise ValueError("vLLM has no autocast; it runs in float32 or bfloat16")
        return VLLM(prompts, arguments.dtype, arguments.folder)
    return Transformers(prompts, arguments.dtype)


def _tag(arguments: argparse.Namespace) -> str:
    return f"{arguments.engine}-{arguments.dtype}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.engines.mismatch", description=(mismatch.__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("prompts", help="images and token ids")
    asked.add_argument("folder", type=Path)
    asked.add_argument("--profile", default="demo")
    asked.add_argument("--checkpoint", default="embedded", help="embedded, a folder, or a hub name")
    asked.add_argument("--count", type=int, default=64)
    source = asked.add_mutually_exclusive_group(required=True)
    source.add_argument("--tabletop", type=Path, help="a rendered split")
    source.add_argument("--data", type=Path, help="prepared rows")
    for name, what in (("sample", "completions by one engine"), ("score", "the same tokens by another")):
        command = commands.add_parser(name, help=what)
        command.add_argument("folder", type=Path)
        command.add_argument("--engine", choices=("transformers", "vllm"), required=True)
        command.add_argument("--dtype", choices=("float32", "bfloat16", "autocast"), default="float32")
        if name == "sample":
            command.add_argument("--samples", type=int, default=4, help="per prompt")
            command.add_argument("--seed", type=int, default=0)
        else:
            command.add_argument("--sampled", required=True, help="such as vllm-float32")
    told = commands.add_parser("report", help="figures of score files")
    told.add_argument("files", type=Path, nargs="+")
    told.add_argument("--json", type=Path)
    told.add_argument("--picture", type=Path)
    arguments = parser.parse_args(argv)
    try:
        _run(arguments)
    except ValueError as error:
        print(f"mismatch: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "prompts":
        make = (tabletop, arguments.tabletop) if arguments.tabletop else (prepared, arguments.data)
        write_prompts(
            arguments.folder, load_profile(arguments.profile), arguments.checkpoint, make[0](make[1], arguments.count)
        )
    elif arguments.command == "report":
        found, differences = {}, {}
        for path in arguments.files:
            lines = read_lines(path)
            name = f"{lines[0]['sampled_by']} -> {lines[0]['scored_by']}"
            found[name] = figures([r["sampled"] for r in lines], [r["scored"] for r in lines])
            differences[name] = np.concatenate([np.subtract(r["scored"], r["sampled"]) for r in lines])
        print(table(found))
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")
        if arguments.picture:
            picture(differences, arguments.picture)
    else:
        prompts = read_prompts(arguments.folder)
        if arguments.command == "sample":
            engine = _engine(arguments, prompts)
            drawn = engine.sample(prompts, arguments.samples, arguments.seed)
            records = ({**asdict(c), "engine": engine.name} for c in drawn)
            total = arguments.samples * len(prompts.items)
            write_lines(arguments.folder / f"{_tag(arguments)}.jsonl", records, total)
        else:
            sampled = read_lines(arguments.folder / f"{arguments.sampled}.jsonl")
            engine = _engine(arguments, prompts)
            completions = [Completion(r["item"], r["ids"], r["logprobs"]) for r in sampled]
            scored = (
                {
                    "item": r["item"],
                    "ids": r["ids"],
                    "sampled": r["logprobs"],
                    "scored": logprobs,
                    "sampled_by": r["engine"],
                    "scored_by": engine.name,
                }
                for r, logprobs in zip(sampled, engine.score(prompts, completions), strict=True)
            )
            write_lines(arguments.folder / f"{arguments.sampled}.by-{_tag(arguments)}.jsonl", scored, len(sampled))


if __name__ == "__main__":
    sys.exit(main())
