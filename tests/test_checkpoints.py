"""A killed run goes on: a whole checkpoint is there at every moment, and what has ended is not trained again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.finetune import checkpoint_io, logs, validate
from training.finetune import run as train
from training.finetune.configuration import Configuration, ConfigurationError, load
from training.finetune.shrink import shrunk

# Two rows per update of four rows: two updates are an epoch, and three are no whole number of epochs.
UPDATES = 3


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def c(tmp_path: Path) -> Configuration:
    """Saved after every update, and only the last one kept."""
    small, _ = shrunk(load("tabletop_sft", ["pictures=false", "trl.learning_rate=1e-2"]), tmp_path)
    trl = {**small.trl, "max_steps": UPDATES, "save_total_limit": 1}
    return replace(small, trl=trl, data=replace(small.data, validation=""))


def whole(c: Configuration) -> list[str]:
    return [p.name for p in train.checkpoints(Path(c.out)) if (p / train.WHOLE).is_file()]


@pytest.mark.long
def test_a_new_checkpoint_is_marked_before_an_older_one_goes(c: Configuration, monkeypatch: pytest.MonkeyPatch) -> None:
    left: dict[str, list[str]] = {}
    remove = shutil.rmtree

    def watched(folder: Any, *args: Any, **more: Any) -> None:
        if Path(folder).parent == Path(c.out) and Path(folder).name.startswith("checkpoint-"):
            left[Path(folder).name] = [name for name in whole(c) if name != Path(folder).name]
        remove(folder, *args, **more)

    monkeypatch.setattr(shutil, "rmtree", watched)
    assert train.run(c) == 0
    assert left == {"checkpoint-1": ["checkpoint-2"], "checkpoint-2": ["checkpoint-3"]}
    assert whole(c) == ["checkpoint-3"]


@pytest.mark.long
def test_a_run_killed_between_the_mark_and_the_removal_goes_on_at_the_new_checkpoint(
    c: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate = checkpoint_io.rotate_checkpoints

    def killed(folder: str, *args: Any, **more: Any) -> None:
        if (Path(folder) / "checkpoint-2").exists():
            raise KeyboardInterrupt
        rotate(folder, *args, **more)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoint_io, "rotate_checkpoints", killed)
        train.run(c)
    assert whole(c) == ["checkpoint-1", "checkpoint-2"]

    trainer, checkpoint = train.ready(c, resume=True)
    assert checkpoint == Path(c.out) / "checkpoint-2"
    assert train.finish(c, trainer, checkpoint) == 0
    assert whole(c) == ["checkpoint-3"]
    steps = [r["step"] for r in logs.read_jsonl(Path(c.out) / "log.jsonl") if "loss" in r]
    assert steps == [1, 2, 3], "each once"


@pytest.mark.long
def test_a_finished_run_trains_nothing_more(c: Configuration) -> None:
    assert train.run(c) == 0
    out = Path(c.out)
    saved = {p: p.read_bytes() for p in (out / "checkpoint-3").iterdir()}
    log = (out / "log.jsonl").read_bytes()
    assert train.ready(c, resume=True) == (None, out / "checkpoint-3")
    assert train.run(c, resume=True) == 0
    assert whole(c) == ["checkpoint-3"]
    assert {p: p.read_bytes() for p in (out / "checkpoint-3").iterdir()} == saved
    assert (out / "log.jsonl").read_bytes() == log


class Broken:
    """A trainer that fails after hours."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def train(self, resume_from_checkpoint: str | None) -> None:
        raise self.error


def test_what_fails_in_training_keeps_its_trace_and_what_is_wrong_with_the_settings_is_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SEGZERO_TRACE", raising=False)
    call = ["tabletop_sft", "--out", str(tmp_path)]
    monkeypatch.setattr(train, "ready", lambda *_: (Broken(ValueError("shapes do not fit")), None))
    with pytest.raises(ValueError, match="shapes do not fit"):
        train.main(call)
    monkeypatch.setattr(train, "ready", lambda *_: (Broken(ConfigurationError("the checkpoint is damaged")), None))
    assert train.main(call) == 2
    assert capsys.readouterr().err == "segzero-train: the checkpoint is damaged\n"

    def unready(*_: Any) -> Any:
        raise ValueError("the folder is wrong")

    monkeypatch.setattr(train, "ready", unready)
    assert train.main(call) == 2, "before training a line is enough"


@pytest.mark.long
def test_the_last_checkpoint_stays_beside_a_better_one(c: Configuration, monkeypatch: pytest.MonkeyPatch) -> None:
    # The library deletes it at the end of training where only one is to be kept.
    worse = iter((3.0, 2.0, 1.0, 0.0))
    evaluate = validate.GreedyValidation.evaluate

    def falling(self: Any, *args: Any, **more: Any) -> dict[str, float]:
        found = evaluate(self, *args, **more)
        return found | {"eval_reward": next(worse)}

    monkeypatch.setattr(validate.GreedyValidation, "evaluate", falling)
    with_validation = replace(c, data=replace(c.data, validation=c.data.train))
    assert train.run(with_validation) == 0
    assert whole(c) == ["checkpoint-1", "checkpoint-3"]
    assert train.last_checkpoint(Path(c.out)) == Path(c.out) / "checkpoint-3"
