"""`segzero-train train CONFIG`: a run from its configuration, resumable after kill -9.

With --resume a run goes on at its last whole checkpoint of finite numbers; on a CPU with fixed threads to the very
weights that it would have reached. Of what a crash left half written, and of what has diverged, nothing is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from segzero_ros.core.contract import SegzeroError
from training.data.folder_lock import Taken, locked
from training.finetune import configuration, resume_changes
from training.finetune.checks import check_installed
from training.finetune.configuration import Configuration, ConfigurationError, main_process
from training.finetune.resume_changes import digests, say
from training.finetune.step_back import last_checkpoint, last_finite
from training.finetune.stopping import STOPPED, STOPPED_EARLY, Diverged, full, stop
from training.finetune.trl_settings import long_warm_up
from training.finetune.whole_checkpoints import WHOLE, checkpoints, damage_of, read_state, step_of, whole_ones

DIGESTS, LOCK = "digests.json", "lock"

__all__ = ["STOPPED_EARLY", "WHOLE", "checkpoints", "last_checkpoint", "main", "run"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="segzero-train train", description=__doc__.partition("\n")[0])
    parser.add_argument("config", help="a file, or the name of one in training/configs")
    parser.add_argument("--dry-run", action="store_true", help="sizes, bytes per GPU, steps and hours; trains nothing")
    parser.add_argument(
        "--shrink", action="store_true", help="two updates on the CPU with a tiny random model, on the rows if there"
    )
    parser.add_argument("--resume", action="store_true", help="go on at the last finite checkpoint of this run")
    parser.add_argument(
        "--accept", action="append", default=[], metavar="NAME", help="with --resume: a setting that may have changed"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as grpo.beta=0.01")
    parser.add_argument("--out", help="where the run goes; runs/NAME otherwise")
    args = parser.parse_args(argv)
    if args.accept and not args.resume:
        parser.error("--accept goes with --resume")
    try:
        return _called(args)
    except KeyboardInterrupt:
        print("segzero-train: interrupted; --resume goes on at the last checkpoint", file=sys.stderr)
        return 130


def _called(args: argparse.Namespace) -> int:
    try:
        c = configuration.load(args.config, [*args.set, *([f"out={args.out}"] if args.out is not None else [])])
        if args.dry_run:
            from training.finetune.dry_run import report

            print(report(c))
            _warn_of_validation(c, digests(c))
            _warn_of_warm_up(c)
            return 0
        if args.shrink:
            return _shrunk(c, args.out or "")
    except (ValueError, SegzeroError, OSError) as error:  # ours all are, and say what is wrong
        return _say(error)
    try:
        with alone(Path(c.out)):
            try:
                trainer, checkpoint = ready(c, args.resume, args.accept)
            except (ValueError, SegzeroError, OSError) as error:
                return _say(error)
            if main_process():
                _warn_of_validation(c, _written(Path(c.out)))
                _warn_of_warm_up(c)
                if trainer is None:
                    say(f"{c.out} has come to its end, {checkpoint}")
            return finish(c, trainer, checkpoint)
    except (ConfigurationError, SegzeroError) as error:  # all else, hours later, keeps its trace
        return _say(error)


def _warn_of_validation(c: Configuration, found: dict[str, str]) -> None:
    if "train" in found and found["train"] == found.get("validation"):
        say(
            f"warning: data.validation {c.data.validation} holds the rows of data.train: checkpoints are chosen by "
            "what was learnt by heart"
        )


def _warn_of_warm_up(c: Configuration) -> None:
    """No more than that: a few rows of one's own are tried with any recipe."""
    from training.finetune.dry_run import updates_of

    if (updates := updates_of(c)) and (text := long_warm_up(c, updates)):
        say(f"warning: {text}")


def _say(error: Exception) -> int:
    if os.environ.get("SEGZERO_TRACE"):
        raise error
    print(f"segzero-train: {error}", file=sys.stderr)
    return 2


def run(c: Configuration, resume: bool = False, accepted: Collection[str] = ()) -> int:
    """0 when it came to its end, 3 when it was stopped early (stopped.json says why)."""
    with alone(Path(c.out)):
        return finish(c, *ready(c, resume, accepted))


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keeps other processes from the same run: two would delete each other's checkpoints. Raises ConfigurationError."""
    if not main_process():  # one of a run's own
        yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(locked(out, LOCK))
        except Taken as error:
            raise ConfigurationError(f"another process is at the run in {out}") from error
        except OSError as error:
            raise ConfigurationError(f"{out} cannot be the folder of a run: {error}") from error
        yield


def finish(c: Configuration, trainer: Any, checkpoint: Path | None) -> int:
    """Trains to the end; no trainer: it has come there already. Returns as `run`. Raises ConfigurationError where the
    disk is full."""
    out = Path(c.out)
    try:
        if trainer is not None:
            _train(out, trainer, checkpoint)
    except Exception as error:
        if not full(error):
            raise
        whole = whole_ones(out)
        goes_on = f"at {whole[-1].name}" if whole else "from the start"
        raise ConfigurationError(
            f"the disk of {out} is full ({str(error)[:200]}); make room there, and --resume goes on {goes_on}"
        ) from error
    return STOPPED_EARLY if (out / STOPPED).is_file() else 0


def _train(out: Path, trainer: Any, checkpoint: Path | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Diverged as error:
        step = trainer.state.global_step
        if main_process():  # the weights of this update cannot answer
            (out / f"checkpoint-{step}" / WHOLE).unlink(missing_ok=True)
        stop(out, step, str(error))
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)  # curves and page


def ready(c: Configuration, resume: bool, accepted: Collection[str] = ()) -> tuple[Any, Path | None]:
    """The trainer and the checkpoint that it goes on at; no trainer where the run has come to its end."""
    check_installed(c)
    kept = {file: file.read_bytes() if file.is_file() else None for file in _papers(Path(c.out))}
    checkpoint = start(c, resume, accepted)
    if checkpoint is not None and _ended(c, checkpoint):
        return None, checkpoint  # the library's Trainer would train to the end of the epoch's next update
    if c.method == "grpo":
        from training.finetune.grpo import build
    else:
        from training.finetune.sft import build
    try:
        return build(c), checkpoint
    except Exception:
        if main_process():  # nothing was trained: the folder holds what it held
            for file, before in kept.items():
                if before is None:
                    file.unlink(missing_ok=True)
                else:
                    file.write_bytes(before)
        raise


def _papers(out: Path) -> list[Path]:
    """What a run writes down of itself when it begins or goes on."""
    return [out / "configuration.yaml", out / DIGESTS, out / "notes.jsonl"]


def _ended(c: Configuration, checkpoint: Path) -> bool:
    state = read_state(checkpoint)
    steps = int(c.arguments.get("max_steps", -1))
    return bool(state["global_step"] >= (steps if steps > 0 else state["max_steps"]))


def start(c: Configuration, resume: bool, accepted: Collection[str] = ()) -> Path | None:
    """The checkpoint to go on at, or None for a new run. Raises ConfigurationError if the folder says otherwise."""
    out, file = Path(c.out), Path(c.out) / "configuration.yaml"
    checkpoint, passed = last_finite(out) if resume else (None, [])
    if resume and not file.is_file() and main_process():
        say(f"{out} holds no run to go on with; a new one begins")
    if not main_process():
        return checkpoint  # the first process looks, and writes; the others would find what it has just written
    if checkpoints(out) and not file.is_file():
        raise ConfigurationError(f"{out} holds checkpoints of something else; give another folder")
    begun = file.is_file()
    if begun and not resume:
        raise ConfigurationError(f"{out} holds a run; --resume goes on with it, or give another folder")
    old = configuration.of_run(out) if begun else {}
    if begun:
        resume_changes.check_there(c, out, old, _written(out))
    now, found = digests(c), []
    step = step_of(checkpoint) if checkpoint else 0
    decisive, free = resume_changes.changes(c, old, _written(out), now, step) if begun else ([], [])
    resume_changes.check_names(c, [*decisive, *free], accepted)
    if begun:
        if checkpoint and (damage := damage_of(checkpoint)):
            before = [p.name for p in whole_ones(out) if step_of(p) < step]
            goes_on = f"goes on at {before[-1]}" if before else "begins from the start"
            raise ConfigurationError(f"{checkpoint} is damaged ({damage}); remove it, and --resume {goes_on}")
        resume_changes.judge(out, decisive, accepted, resume_changes.refused_today(old))
        found = [*decisive, *free]
        (out / STOPPED).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    for line in passed:
        say(f"{line}; it is removed")
    if passed:
        say(f"goes on at {checkpoint.name}" if checkpoint else "no checkpoint is finite: begins from the start")
    for later in checkpoints(out):
        if not (later / WHOLE).is_file() or step_of(later) > step:
            shutil.rmtree(later)
    if begun:
        resume_changes.note(out, found, step)
    _write(out / DIGESTS, json.dumps(now))
    _write(file, yaml.safe_dump(configuration.plain(c), sort_keys=False, allow_unicode=True))
    return checkpoint


def _written(out: Path) -> dict[str, str]:
    """The digests that a run wrote down when it last began or went on; of rows alone where it is an older one."""
    for name in (DIGESTS, "rows.json"):
        try:
            found: dict[str, str] = json.loads((out / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return found
    return {}


def _write(file: Path, text: str) -> None:
    """All of it or nothing."""
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _shrunk(c: Configuration, out: str) -> int:
    from training.finetune.dry_run import check
    from training.finetune.shrink import shrunk

    if out and Path(out).exists() and not (Path(out).is_dir() and not any(Path(out).iterdir())):
        raise ConfigurationError(f"{out} is there already; give another folder to what --shrink leaves")
    check(c)  # what the real run would refuse, and a small one might not
    with tempfile.TemporaryDirectory() as folder:
        small, replaced = shrunk(c, Path(folder))
        for line in replaced:
            print(f"shrunk: {line}")
        code = run(small)
        if out:
            shutil.copytree(small.out, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(LOCK))
    return code


if __name__ == "__main__":
    sys.exit(main())
