"""Evaluates a profile through the node's own pipeline, so what is measured is what runs.

    segzero-train evaluate --profile demo --data tabletop:test --records out/test.jsonl --pictures out/test.png
    segzero-train evaluate --profile seg-zero --data reasonseg:PATH --split val --records out/val.jsonl
    segzero-train evaluate ... --shard 0/8          # one process per GPU (shard I takes GPU I), all eight, then
    segzero-train evaluate --from-records out/val.*-of-8.jsonl --records out/val.jsonl
    segzero-train evaluate ... --samples 32 --temperature 1 --top-p 0.9  # voting (training/measures/voting.py)
    segzero-train evaluate ... --parser published   # as the script that made the published figures of this profile
    segzero-train evaluate ... --parser seg-zero-multi-object     # as a published script by its name

A call with --records that was killed is continued by the same call. Shards take whole batches in turn, so that a text
does not depend on their number; every figure is made from the records alone
(figures.py defines each).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from segzero_ros.core.contract import Image, Mask, ThoughtBudget
from segzero_ros.core.published import SCRIPTS, script_of
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile
from training.data.sources import Reading, add_options, options
from training.data.tabletop.evaluation import QUESTIONS, SCENES
from training.evaluation.asking import Voting, evaluate
from training.evaluation.command import ended
from training.evaluation.figures import summarise, table
from training.evaluation.identity import digest_of, weights
from training.evaluation.item_records import FORM
from training.evaluation.items import Case, read_cases
from training.measures.records import Record, RecordFile, load, shard_path, write


def _alone(cases: Sequence[Case], count: int = 300) -> int:
    """Where the `count`-th item with a target is; as the figures given before were made, on the tabletop."""
    seen = 0
    for n, case in enumerate(cases):
        seen += bool(case.read().targets)
        if seen == count:
            return n + 1
    return len(cases)


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    try:
        found = int(number), int(count)
    except ValueError:
        found = -1, 0
    if not 0 <= found[0] < found[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 0 <= I < N")
    return found


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="segzero-train evaluate", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--profile", default="demo")
    p.add_argument("--data", default="tabletop:test", help="tabletop:SPLIT, or FORMAT:PATH as `prepare` reads it")
    p.add_argument("--root", type=Path, default=Path("build/tabletop"), help="where scenes are kept")
    p.add_argument("--n", type=int, help=f"items (default: all; tabletop: {QUESTIONS})")
    p.add_argument("--scenes", type=int, default=SCENES)
    p.add_argument("--split", default="test", help="of FORMAT:PATH")
    p.add_argument("--by", help="whose splits of RefCOCO*")
    p.add_argument("--images", type=Path, help="folder of the images, where the format does not say")
    p.add_argument("--sentences", choices=("first", "all"), default="first")
    add_options(p)
    p.add_argument("--categories", action="store_true", help="instructions are category names: AP is their mean")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument(
        "--parser",
        choices=("node", "published", *SCRIPTS),
        default="node",
        help="what reads answers; published: the profile's own script of the others, which are published scripts",
    )
    p.add_argument("--samples", type=int, default=0, help="vote over so many samples per item; 0: greedy")
    p.add_argument("--temperature", type=float, default=1.0, help="of samples")
    p.add_argument("--top-p", type=float, default=0.9, help="of samples")
    p.add_argument("--constrain", action="store_true", help="hold answers to the profile's grammar")
    p.add_argument("--thought-budget", type=int, metavar="TOKENS", help="close thoughts then; 0: at once")
    p.add_argument("--latency-items", type=int, default=20, help="asked once more alone, for their time")
    p.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="I/N", help="the I-th of N, records in F.I-of-N.jsonl"
    )
    p.add_argument("--reasoner", help="another checkpoint than the profile's")
    p.add_argument("--adapter", help="a LoRA adapter that is merged into the reasoner: folder or hub name")
    p.add_argument("--segmenter", help="another checkpoint than the profile's")
    p.add_argument("--device", help="cpu, cuda, cuda:1, ...; by itself the shard's own GPU")
    p.add_argument("--dtype")
    p.add_argument("--attention")
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")
    p.add_argument("--summary", type=Path, help="the same object into a file")
    p.add_argument("--records", type=Path, help="per-item records, JSONL; a killed run continues")
    p.add_argument("--restart", action="store_true", help="set older records aside instead of going on with them")
    p.add_argument("--from-records", type=Path, nargs="+", metavar="F", help="figures of records, shards joined")
    p.add_argument("--pictures", type=Path, help="a page of failures and wins, PNG")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    arguments = p.parse_args(argv)
    if arguments.batch < 1 or arguments.samples < 0 or (arguments.n is not None and arguments.n < 1):
        p.error("--batch and --n must be at least 1, --samples at least 0")
    return ended("evaluate", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    cases: list[Case] | None = None
    if arguments.from_records:
        settings, records = load(arguments.from_records, "absent")
        if arguments.records:
            write(arguments.records, settings, records)
    else:
        settings, cases, records = _measure(arguments)
    summary = summarise(settings, records)
    if arguments.pictures:
        from training.evaluation import page

        found = cases if cases is not None else read_cases(settings, arguments.root)

        def look(index: int) -> tuple[Image, Mask | None]:
            asked = found[index].read()
            return asked.image, asked.truth()

        page.draw(records, look, arguments.pictures)
    if arguments.summary:
        arguments.summary.parent.mkdir(parents=True, exist_ok=True)
        part = arguments.summary.with_name(arguments.summary.name + ".part")
        part.write_text(json.dumps(summary, indent=1))
        part.replace(arguments.summary)
    print(json.dumps(summary) if arguments.json else table(summary))
    return 0 if summary["failed"] == summary["unread"] == 0 else 1


def own_gpu(shard: tuple[int, int]) -> str | None:
    """Of one of several shards on a machine with several GPUs; None: the one that is taken anyway."""
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{shard[0] % gpus}" if shard[1] > 1 and gpus > 1 else None


def _measure(a: argparse.Namespace) -> tuple[dict[str, Any], list[Case], list[Record]]:
    profile = load_profile(a.profile)
    settings: dict[str, Any] = {"profile": a.profile, "data": a.data, "n": a.n, "seed": a.seed, "batch": a.batch}
    if a.data.startswith("tabletop:"):
        settings |= {"scenes": a.scenes}
    else:
        settings |= {"split": a.split, "by": a.by, "sentences": a.sentences, "categories": a.categories}
        settings |= {"images": str(a.images) if a.images else None}
        if how := {k: v for k, v in options(a).items() if v != getattr(Reading, k)}:
            settings |= {"reading": how}
    settings |= {"form": FORM}
    if a.parser != "node":
        own = script_of(profile)
        script = own if a.parser == "published" else a.parser
        if not own or (script == "seg-zero") != (own == "seg-zero"):
            raise ValueError(f"--parser {a.parser}: no such script reads answers of the profile {a.profile}")
        settings |= {"parser": a.parser, "script": script}
        profile = replace(profile, max_new_tokens=SCRIPTS[script].max_new_tokens)
    if a.samples:
        settings |= {"samples": a.samples, "temperature": a.temperature, "top_p": a.top_p}
    if a.constrain or a.thought_budget is not None:
        settings |= {"constrain": a.constrain, "thought_budget": a.thought_budget}
    cases = read_cases(settings, a.root)
    if not cases:
        raise ValueError(f"--data {a.data}: there are no items")
    device = a.device or own_gpu(a.shard)
    pipeline = Pipeline.load(
        profile,
        reasoner=a.reasoner,
        adapter=a.adapter,
        segmenter=a.segmenter,
        device=device,
        dtype=a.dtype,
        attention=a.attention,
        trial=False,
        constrain=a.constrain or None,
    )
    if a.thought_budget is not None:
        pipeline.reasoning.thought_budget = ThoughtBudget(a.thought_budget)
    pipeline.script = settings.get("script", "")
    ids = digest_of(c.id for c in cases)
    settings |= {"items": len(cases), "ids": ids, "profile_settings": asdict(profile), "shard": list(a.shard)}
    for role, info in (("reasoner", pipeline.reasoner.info), ("segmenter", pipeline.segmenter.info)):
        device = info.device.split(":")[0]
        settings[role] = {"name": info.name, "weights": weights(info.name, role, info.revision), "dtype": info.dtype}
        settings[role] |= {"device": device}
        if info.adapter:
            subfolder = profile.adapter_subfolder if info.adapter == profile.adapter else None
            settings[role]["adapter"] = {
                "name": info.adapter,
                "weights": weights(info.adapter, "adapter", "", subfolder),
            }
    file = RecordFile(shard_path(a.records, a.shard), settings, restart=a.restart) if a.records else None
    voting = Voting(a.samples, a.temperature, a.top_p, a.seed) if a.samples else None
    alone = _alone(cases) if a.data.startswith("tabletop:") else 300
    given = {"batch": a.batch, "shard": a.shard, "voting": voting, "alone": alone, "latency_items": a.latency_items}
    records = evaluate(pipeline, cases, file=file, **given)
    return settings, cases, records


if __name__ == "__main__":
    sys.exit(main())
