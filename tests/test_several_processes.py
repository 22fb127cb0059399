"""Two processes, as on two GPUs: one update of both, one validation, one set of files, and a run that goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from training.finetune import configuration, logs
from training.finetune import run as train
from training.finetune.configuration import Configuration, load
from training.finetune.shrink import shrunk

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]


def launch(c: Configuration, *more: str, fails: bool = False) -> str:
    """As the README has it, but for the accelerate file: two processes on the CPU. Returns what they said."""
    file = Path(c.out).with_suffix(".yaml")
    file.write_text(yaml.safe_dump(configuration.plain(c)))
    call = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    call += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "--module"]
    ended = subprocess.run(
        [*call, "training.train", str(file), *more],
        env=os.environ | {"OMP_NUM_THREADS": "1", "SEGZERO_TRACE": "1"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert bool(ended.returncode) == fails, ended.stderr[-4000:]
    return ended.stdout + ended.stderr


def small(name: str, folder: Path, rate: float, *more: str) -> Configuration:
    settings = ["pictures=false", "watch.spread_prompts=1", f"trl.learning_rate={rate}", *more]
    c, _ = shrunk(load(name, settings), folder)
    watch = replace(c.watch, zero_spread=None, kl=None, truncated=None, length=None, format_rate=None)
    # Three rows do not divide by two processes: one of them is answered twice and counted once.
    return replace(c, watch=watch, batch=replace(c.batch, micro=1), data=replace(c.data, validation_rows=3))


def validated(c: Configuration) -> list[dict[str, Any]]:
    records = logs.read_jsonl(Path(c.out) / "log.jsonl")
    keys = ("eval_reward", "eval_length", "eval_truncated", "eval_rows")
    return [{key: pytest.approx(r[key]) for key in keys} for r in records if "eval_reward" in r]


@pytest.mark.parametrize("call", [["seg_zero_3b"], ["seg_zero_3b", "batch.keep=2"], ["seg_zero_3b_sft"]], ids=" ".join)
def test_two_processes_validate_as_one_does_and_write_once(call: list[str], tmp_path: Path) -> None:
    c = small(call[0], tmp_path, 1e-50, *call[1:])  # less than float32 holds: weights stay, so that answers do
    one, two = (replace(c, out=str(tmp_path / name)) for name in ("one", "two"))
    assert train.run(one) == 0
    launch(two)
    assert validated(one) and validated(one) == validated(two)
    assert validated(two)[0]["eval_rows"] == 3
    steps = [r["step"] for r in logs.read_jsonl(Path(two.out) / "log.jsonl") if "loss" in r]
    assert steps == [1, 2], "an update is one, however many processes share it"
    for run in (one, two):
        assert sorted(p.name for p in train.checkpoints(Path(run.out))) == ["checkpoint-1", "checkpoint-2"]
    start = load_file(Path(c.model.path) / "model.safetensors")
    saved = load_file(Path(two.out) / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(start[key], saved[key]) for key in start)


def test_a_run_of_two_processes_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    c = small("seg_zero_3b", tmp_path, rate=1e-2)
    c = replace(c, save_every=2, trl={**c.trl, "max_steps": 4})
    launch(c)
    out = Path(c.out)
    whole = load_file(out / "checkpoint-4" / "model.safetensors")
    shutil.rmtree(out / "checkpoint-4")
    launch(c, "--resume")
    again, first = (load_file(out / f"checkpoint-{n}" / "model.safetensors") for n in (4, 2))
    assert all(torch.equal(again[key], whole[key]) for key in whole)
    assert not all(torch.equal(again[key], first[key]) for key in whole)


def test_two_processes_that_diverge_stop_together_and_keep_what_was_good(tmp_path: Path) -> None:
    c = small("seg_zero_3b_sft", tmp_path, 1e30, "trl.weight_decay=0", "trl.warmup_steps=1")
    assert "stopped after update 2" in launch(c, fails=True)
    assert [p.name for p in train.checkpoints(Path(c.out))] == ["checkpoint-1"], "of which the rate was still 0"
    again = launch(c, "--resume", fails=True)
    assert again.count("stopped after update 2") == 1, "said once"
    assert "Timeout" not in again
    assert [p.name for p in train.checkpoints(Path(c.out))] == ["checkpoint-1"]
