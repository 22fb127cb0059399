"""`segzero-train train CONFIG`: a run from its configuration, resumable after kill -9.

With --resume a run goes on at its last whole checkpoint; on a CPU with fixed threads to the very weights that it would
have reached. Of what a crash left half written nothing is kept.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from segzero_ros.core.contract import SegzeroError
from training.finetune import configuration
from training.finetune.checkpoints import WHOLE, checkpoints, last_checkpoint
from training.finetune.configuration import Configuration, ConfigurationError, main_process
from training.finetune.prepared import digest

STOPPED_EARLY = 3


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="segzero-train train", description=__doc__.partition("\n")[0])
    parser.add_argument("config", help="a file, or the name of one in training/configs")
    parser.add_argument("--dry-run", action="store_true", help="sizes, bytes per GPU, steps and hours; trains nothing")
    parser.add_argument("--shrink", action="store_true", help="two updates on the CPU with a tiny random model")
    parser.add_argument("--resume", action="store_true", help="go on at the last checkpoint of this run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as trl.beta=0.01")
    parser.add_argument("--out", default="", help="where the run goes; runs/NAME otherwise")
    args = parser.parse_args(argv)
    try:
        return _called(args)
    except KeyboardInterrupt:
        print("segzero-train: interrupted; --resume goes on at the last checkpoint", file=sys.stderr)
        return 130


def _called(args: argparse.Namespace) -> int:
    try:
        c = configuration.load(args.config, [*args.set, *([f"out={args.out}"] if args.out else [])])
        if args.dry_run:
            from training.finetune.dry_run import report

            print(report(c))
            return 0
        if args.shrink:
            return _shrunk(c, args.out)
    except (ValueError, SegzeroError, OSError) as error:  # ours all are, and say what is wrong
        return _say(error)
    try:
        with alone(Path(c.out)):
            try:
                trainer, checkpoint = ready(c, args.resume)
            except (ValueError, SegzeroError, OSError) as error:
                return _say(error)
            if trainer is None and main_process():
                print(f"segzero-train: {c.out} has come to its end, {checkpoint}", file=sys.stderr)
            return finish(c, trainer, checkpoint)
    except (ConfigurationError, SegzeroError) as error:  # all else, hours later, keeps its trace
        return _say(error)


def _say(error: Exception) -> int:
    if os.environ.get("SEGZERO_TRACE"):
        raise error
    print(f"segzero-train: {error}", file=sys.stderr)
    return 2


def run(c: Configuration, resume: bool = False) -> int:
    """0 when it came to its end, 3 when it was stopped early (stopped.json says why)."""
    with alone(Path(c.out)):
        return finish(c, *ready(c, resume))


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keeps other processes from the same run: two would delete each other's checkpoints. Raises ConfigurationError."""
    if not main_process():  # one of a run's own
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / "lock").open("a+")
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be the folder of a run: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it with the process
        except BlockingIOError as error:
            raise ConfigurationError(f"another process is at the run in {out}") from error
        yield


def finish(c: Configuration, trainer: Any, checkpoint: Path | None) -> int:
    """Trains to the end; no trainer: it has come there already. Returns as `run`."""
    if trainer is not None:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return STOPPED_EARLY if (Path(c.out) / "stopped.json").is_file() else 0


def ready(c: Configuration, resume: bool) -> tuple[Any, Path | None]:
    """The trainer and the checkpoint that it goes on at; no trainer where the run has come to its end."""
    begins = not (Path(c.out) / "configuration.yaml").is_file()
    checkpoint = start(c, resume)
    if checkpoint is not None:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        if state["global_step"] >= state["max_steps"]:
            return None, checkpoint  # the library's Trainer would train to the end of the epoch's next update
    if c.method == "grpo":
        from training.finetune.grpo import build
    else:
        from training.finetune.sft import build
    try:
        return build(c), checkpoint
    except Exception:
        if begins:  # nothing was trained: the folder holds no run
            (Path(c.out) / "configuration.yaml").unlink(missing_ok=True)
        raise


def start(c: Configuration, resume: bool) -> Path | None:
    """The checkpoint to go on at, or None for a new run. Raises ConfigurationError if the folder says otherwise."""
    out, file, rows = Path(c.out), Path(c.out) / "configuration.yaml", Path(c.out) / "rows.json"
    checkpoint = last_checkpoint(out) if resume else None
    if resume and not file.is_file() and main_process():
        print(f"segzero-train: {out} holds no run to go on with; a new one begins", file=sys.stderr)
    if not main_process():
        return checkpoint  # the first process looks, and writes; the others would find what it has just written
    if checkpoints(out) and not file.is_file():
        raise ConfigurationError(f"{out} holds checkpoints of something else; give another folder")
    now = digests(c)
    if file.is_file():
        if not resume:
            raise ConfigurationError(f"{out} holds a run; --resume goes on with it, or give another folder")
        if changed := configuration.differences(configuration.of_run(out), configuration.plain(c)):
            raise ConfigurationError(f"{out} holds a run with other settings: {', '.join(changed)}")
        before = json.loads(rows.read_text(encoding="utf-8")) if rows.is_file() else {}
        if changed := [name for name, one in now.items() if before.get(name, one) != one]:
            raise ConfigurationError(
                f"{out} holds a run over other rows: data.{', data.'.join(changed)} has changed since"
            )
        (out / "stopped.json").unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    for broken in checkpoints(out):
        if not (broken / WHOLE).is_file():
            shutil.rmtree(broken)
    _write(rows, json.dumps(now))
    _write(file, yaml.safe_dump(configuration.plain(c), sort_keys=False, allow_unicode=True))
    return checkpoint


def _write(file: Path, text: str) -> None:
    """All of it or nothing."""
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def digests(c: Configuration) -> dict[str, str]:
    """Of the rows to train and to validate on, where they are there."""
    there = {"train": c.data.train, "validation": c.data.validation}
    return {name: digest(folder) for name, folder in there.items() if folder and Path(folder).is_dir()}


def _shrunk(c: Configuration, out: str) -> int:
    from training.finetune.shrink import shrunk

    if out and Path(out).exists() and not (Path(out).is_dir() and not any(Path(out).iterdir())):
        raise ConfigurationError(f"{out} is there already; give another folder to what --shrink leaves")
    with tempfile.TemporaryDirectory() as folder:
        small, replaced = shrunk(c, Path(folder))
        for line in replaced:
            print(f"shrunk: {line}")
        code = run(small)
        if out:
            shutil.copytree(small.out, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("lock"))
    return code


if __name__ == "__main__":
    sys.exit(main())
