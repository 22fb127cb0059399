"""`segzero-train export RUN`: a checkpoint as a folder that the node or a server loads: whole weights, the processor's
files, chat template, model card, profile.

Adapters are merged into their base, which is read anew in float32 (over 4 bits they were trained beside a rounded one,
and the card says so). Weights are safetensors.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from segzero_ros.core.contract import SegzeroError
from segzero_ros.profiles import load_profile
from training.finetune import configuration
from training.finetune.configuration import Configuration, ConfigurationError
from training.finetune.conversations import prompt_profile
from training.finetune.logs import kinks, read_jsonl
from training.finetune.processor_files import write_processor_files
from training.finetune.step_back import flaw_of, last_finite
from training.finetune.whole_checkpoints import WHOLE, damage_of_weights, read_state, whole_ones

# Model classes that a profile of the node can name.
_NODE_CLASSES = ("qwen2_5_vl", "qwen3_vl")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="segzero-train export", description=__doc__.partition("\n")[0])
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("--out", required=True, help="the folder to make")
    parser.add_argument("--checkpoint", default="best", help='"best" on validation, "last", or an update\'s number')
    parser.add_argument("--figures", action="append", default=[], help="JSON of segzero-train evaluate, for the card")
    parser.add_argument("--segmenter", default="", help="of the profile; the run's, or the family's, otherwise")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    args = parser.parse_args(argv)
    try:
        made = export(
            Path(args.run), Path(args.out), args.checkpoint, [Path(f) for f in args.figures], args.segmenter, args.dtype
        )
    except (ValueError, SegzeroError, OSError) as error:
        print(f"segzero-train: {error}", file=sys.stderr)
        return 2
    print(f"{made}\nsegzero segment --profile {made / 'profile.yaml'} IMAGE INSTRUCTION")
    return 0


def read_run(run: Path) -> Configuration:
    """As the run was trained, whatever is refused today. Raises ConfigurationError if the folder holds no run."""
    file = run / "configuration.yaml"
    c, gone = configuration.trained(configuration.of_run(run), f"{file}, which export reads and may be edited")
    if gone:
        print(f"segzero-train: {file} has {', '.join(gone)}, no settings any longer: not read", file=sys.stderr)
    return c


def choose(run: Path, which: str) -> Path:
    """A whole checkpoint of finite numbers: "best" on validation (the last one where nothing was validated), "last" or
    a number. Steps back from those that have diverged, and says so. Raises ConfigurationError."""
    last, passed = last_finite(run)
    for line in passed:
        print(f"segzero-train: {line}; {last.name if last else 'none'} is the last one before it", file=sys.stderr)
    if last is None:
        raise ConfigurationError(f"{run} holds no whole checkpoint" + " of finite numbers" * bool(passed))
    if which == "last":
        return last
    if which == "best":
        best = run / f"checkpoint-{read_state(last).get('best_global_step')}"
        if (best / WHOLE).is_file() and (flaw := flaw_of(best)):
            print(f"segzero-train: {best.name} has diverged: {flaw}; {last.name} is taken", file=sys.stderr)
            return last
        return best if (best / WHOLE).is_file() else last
    found = run / f"checkpoint-{which}"
    if not (found / WHOLE).is_file():
        have = ", ".join(p.name.removeprefix("checkpoint-") for p in whole_ones(run))
        raise ConfigurationError(f"{run} has no whole checkpoint {which}; it has {have}")
    if flaw := flaw_of(found):
        raise ConfigurationError(f"{found} has diverged: {flaw}; the last finite one is {last.name}")
    return found


def export(
    run: Path,
    out: Path,
    which: str = "best",
    figures: Sequence[Path] = (),
    segmenter: str = "",
    dtype: str = "bfloat16",
) -> Path:
    """Makes the folder `out`. Raises ConfigurationError, and ValueError for figures that are no JSON."""
    c = read_run(run)
    checkpoint = choose(run, which)
    if damage := damage_of_weights(checkpoint):
        raise ConfigurationError(f"{checkpoint} is damaged ({damage}); --checkpoint takes another one")
    if out.exists():
        raise ConfigurationError(f"{out} is there already")
    measured = [(path.name, _figures(path)) for path in figures]
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    model_type = save_weights(c, checkpoint, part, dtype)
    write_processor_files(part, c.data.square)
    lines = {
        k: v
        for k, v in profile(c, out, model_type, segmenter).items()
        if v is not None or k == "system"  # null there means no system turn
    }
    if model_type in _NODE_CLASSES:
        text = "# Where the folder lies is in `reasoner`; change it when the folder moves.\n"
        text += yaml.safe_dump(lines, sort_keys=False, allow_unicode=True)
        (part / "profile.yaml").write_text(text, encoding="utf-8")
        load_profile(str(part / "profile.yaml"))  # as the node reads it
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    (part / "README.md").write_text(card(c, run, step, measured, model_type), encoding="utf-8")
    shutil.copy(run / "configuration.yaml", part / "training.yaml")
    os.replace(part, out)
    return out


def _figures(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--figures {path}: not readable JSON: {error}") from error


def save_weights(c: Configuration, checkpoint: Path, folder: Path, dtype: str) -> str:
    """Whole weights and the tokenizer; returns the model's type. Raises SegzeroError for a broken checkpoint."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

    from training.finetune import model as models

    start = models.folder_of(c.model)

    def read(where: Path) -> Any:
        return AutoModelForImageTextToText.from_pretrained(
            where, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )

    if c.model.lora:
        from peft import PeftModel

        model = PeftModel.from_pretrained(read(start), str(checkpoint), use_safetensors=True).merge_and_unload()
    else:
        model = read(checkpoint)
    model = model.to(getattr(torch, dtype))
    if (start / "generation_config.json").is_file():  # as published, and not what sampling in training set
        model.generation_config = GenerationConfig.from_pretrained(start)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(start, local_files_only=True, trust_remote_code=False).save_pretrained(folder)
    return str(model.config.model_type)


def profile(c: Configuration, folder: Path, model_type: str, segmenter: str = "") -> dict[str, Any]:
    """The node's profile of this model."""
    p = prompt_profile(c.data)
    embedded = c.model.architecture == "embedded"
    return {
        "name": c.name,
        "description": f"{c.model.path} fine-tuned by {c.method.upper()}, {c.name}",
        "prompt": p.prompt,
        "reasoner": str(folder.resolve()),
        "segmenter": segmenter or c.reward.segmenter or ("embedded" if embedded else "facebook/sam2-hiera-large"),
        "square": p.square,
        "system": p.system,
        "coordinates": p.coordinates,
        "schema": p.schema,
        "rounding": "round" if p.schema == "single" else "half-up",
        "max_new_tokens": c.completion,
        "model_class": model_type,
        "licence": c.model.licence,
    }


def card(c: Configuration, run: Path, step: int, measured: Sequence[tuple[str, Any]], model_type: str) -> str:
    """README.md: what it is, of which data, how it was trained, what it reached, under which licence."""
    apache = c.model.licence.lower() == "apache-2.0"
    head = {
        "license": "apache-2.0" if apache else "other",
        **({} if apache else {"license_name": c.model.licence or "unknown"}),
        "base_model": c.model.path,
        "pipeline_tag": "image-text-to-text",
        "library_name": "transformers",
        "tags": ["segmentation", "reasoning", "trl", c.method],
    }
    records = read_jsonl(run / "log.jsonl")
    text = [
        "---\n" + yaml.safe_dump(head, sort_keys=False) + "---",
        f"# {c.name}",
        f"`{c.model.path}` fine-tuned {'by reward (GRPO)' if c.method == 'grpo' else 'on right answers (SFT)'}; "
        f"checkpoint of update {step}. For: {c.answers}.",
    ]
    if c.model.lora:
        over = " They were trained over a base of 4 bits and are merged into the whole one." * (
            c.model.quantise != "none"
        )
        text.append(f"Adapters of rank {c.model.lora.rank} on the language model, merged.{over}")
    if model_type not in _NODE_CLASSES:
        text.append(f"The node has no model class {model_type}, so there is no profile.")
    text += [
        "## Data",
        f"`{c.data.train}`" + (f", the first {c.data.rows} rows" if c.data.rows else "") + f"; squares of "
        f"{c.data.square} pixels, coordinates in {c.data.coordinates}, prompt `{c.data.prompt}`. Validation: "
        + (f"`{c.data.validation}`." if c.data.validation else "none."),
        "## Figures",
        "Greedy answers to the validation rows, during training:",
        _table(records, step),
    ]
    for name, found in measured:
        text += [f"From `{name}`:", "```json\n" + json.dumps(found, indent=1)[:20_000] + "\n```"]
    if bends := [f"* after update {at}: {what}" for at, what in kinks(run) if at < step]:
        text += ["## Kinks", "Settings that were changed when the run went on:", "\n".join(bends)]
    text += [
        "## Configuration",
        "```yaml\n" + yaml.safe_dump(configuration.plain(c), sort_keys=False, allow_unicode=True) + "```",
        "## Licence",
        f"The start checkpoint's: {c.model.licence or 'unknown'}. The data have their own.",
    ]
    return "\n\n".join(text) + "\n"


def _table(records: Sequence[dict[str, Any]], step: int) -> str:
    """Validations as Markdown; the exported one is marked."""
    rows = [r for r in records if "eval_reward" in r]
    if not rows:
        return "None was made."
    keys = [k for k in rows[0] if k.startswith("eval_") and k not in ("eval_seconds", "eval_rows")]
    lines = [
        "| update | " + " | ".join(k.removeprefix("eval_") for k in keys) + " |",
        "|---" * (len(keys) + 1) + "|",
    ]
    for r in rows:
        mark = " (this)" if r["step"] == step else ""
        lines.append(f"| {r['step']}{mark} | " + " | ".join(_number(r.get(k)) for k in keys) + " |")
    return "\n".join(lines) + f"\n\nOver {rows[-1].get('eval_rows', '?')} rows."


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) and math.isfinite(value) else "-"


if __name__ == "__main__":
    sys.exit(main())
