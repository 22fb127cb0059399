"""What is kept when numbers stop being finite, or the disk is full: the last good checkpoint, and a sentence."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import Trainer

from training.finetune import configuration, export, logs, whole_checkpoints
from training.finetune import run as train
from training.finetune.configuration import Configuration, ConfigurationError, load
from training.finetune.shrink import shrunk
from training.finetune.watch import Watch

pytestmark = pytest.mark.usefixtures("one_thread")
UPDATES = 3


def small(name: str, folder: Path, *settings: str) -> Configuration:
    """Saved after every update, and only the last one kept; stopped by nothing but what is not finite."""
    quiet = ["pictures=false", "watch.spread_prompts=0", "trl.learning_rate=1e-2", *settings]
    c, _ = shrunk(load(name, quiet), folder)
    watch = replace(c.watch, zero_spread=None, kl=None, truncated=None, length=None, format_rate=None)
    trl = {**c.trl, "max_steps": UPDATES, "save_total_limit": 1}
    return replace(c, trl=trl, watch=watch, data=replace(c.data, validation=""))


def weights(c: Configuration, step: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(Path(c.out) / f"checkpoint-{step}" / "model.safetensors")
    return found


def names(c: Configuration) -> list[str]:
    return [p.name for p in whole_checkpoints.whole_ones(Path(c.out))]


def stopped(c: Configuration) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(c.out) / "stopped.json").read_text())
    return found


@pytest.fixture
def nan_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes a weight NaN by the optimiser's step of one update, in every run."""

    def spoil(update: int) -> None:
        def spoilt(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step + 1 == update:
                with torch.no_grad():
                    next(p for n, p in kwargs["model"].named_parameters() if "q_proj.weight" in n)[0, 0] = float("nan")

        monkeypatch.setattr(Watch, "on_optimizer_step", spoilt)

    return spoil


@pytest.mark.long
@pytest.mark.parametrize("name", ["tabletop_sft", "seg_zero_3b"])
def test_a_run_that_diverges_ends_alike_however_often_it_is_resumed_and_goes_on_when_it_is_mended(
    name: str, nan_at: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = small(name, tmp_path)
    mended = replace(c, out=str(tmp_path / "mended"))
    with monkeypatch.context() as whole:
        whole.setattr(Watch, "on_optimizer_step", lambda *_, **__: None, raising=False)
        assert train.run(mended) == 0

    nan_at(2)
    assert train.run(c) == train.STOPPED_EARLY
    first = weights(c, 1)
    for _ in range(3):
        assert names(c) == ["checkpoint-1"], "rotation has not taken it, and nothing is written beside it"
        assert not (Path(c.out) / "checkpoint-2").exists()
        assert stopped(c)["step"] == 2 and "q_proj.weight is not finite" in stopped(c)["reason"]
        assert train.run(c, resume=True) == train.STOPPED_EARLY
    assert all(torch.equal(first[key], weights(c, 1)[key]) for key in first)

    monkeypatch.setattr(Watch, "on_optimizer_step", lambda *_, **__: None)
    assert train.run(c, resume=True) == 0
    assert not (Path(c.out) / "stopped.json").exists()
    assert all(torch.equal(value, weights(mended, UPDATES)[key]) for key, value in weights(c, UPDATES).items())
    steps = [r["step"] for r in logs.read_jsonl(Path(c.out) / "log.jsonl") if "loss" in r]
    assert steps == [1, 2, 3], "each once"


def test_answers_that_cannot_be_drawn_end_a_run_with_a_sentence(
    nan_at: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SEGZERO_TRACE", raising=False)
    c = replace(small("seg_zero_3b", tmp_path), save_every=UPDATES)
    nan_at(2)  # no checkpoint is due, so the next answers meet it
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(configuration.plain(c)))
    assert train.main([str(file)]) == 3
    said = capsys.readouterr()
    assert "stopped after update 2: no answer can be drawn" in said.out
    assert "Traceback" not in said.out + said.err
    assert stopped(c)["step"] == 2 and names(c) == []
    assert train.main([str(file), "--resume"]) == 3


def test_a_start_model_that_gives_no_numbers_ends_before_the_first_update(tmp_path: Path) -> None:
    c = small("seg_zero_3b", tmp_path)
    c = replace(c, watch=replace(c.watch, spread_prompts=1))
    file = Path(c.model.path) / "model.safetensors"
    broken = load_file(file)
    next(w for n, w in broken.items() if "q_proj.weight" in n).fill_(float("nan"))
    save_file(broken, file, metadata={"format": "pt"})
    assert train.run(c) == train.STOPPED_EARLY
    assert stopped(c)["step"] == 0 and "not finite" in stopped(c)["reason"]


def test_a_gradient_that_is_not_finite_ends_a_run_at_once_also_where_it_is_not_logged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = Trainer.training_step

    def spoilt(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        loss = step(self, model, *args, **kwargs)
        if self.state.global_step == 1:
            next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = float("nan")
        return loss

    monkeypatch.setattr(Trainer, "training_step", spoilt)
    c = small("tabletop_sft", tmp_path)
    c = replace(c, trl={**c.trl, "logging_steps": 100}, data=replace(c.data, validation=c.data.train))
    assert train.run(c) == train.STOPPED_EARLY
    assert stopped(c) == {"step": 2, "reason": "grad_norm is nan"}
    assert names(c) == ["checkpoint-1"]
    log = logs.read_jsonl(Path(c.out) / "log.jsonl")
    assert [r["step"] for r in log if r.get("grad_norm") == "nan"] == [2]
    assert [r["step"] for r in log if "eval_reward" in r] == [1], "what has diverged is not validated"


def test_a_loss_that_is_not_finite_is_logged_as_it_is(tmp_path: Path) -> None:
    from training.finetune import grpo, sft

    for name, module in (("seg_zero_3b", grpo), ("seg_zero_3b_sft", sft)):
        assert module.arguments(load(name, ["trl.use_cpu=true"])).logging_nan_inf_filter is False  # type: ignore[attr-defined]


@pytest.mark.long
def test_weights_that_are_finite_and_too_large_to_compute_with_are_not_kept(tmp_path: Path) -> None:
    c = small("seg_zero_3b", tmp_path, "trl.learning_rate=1e30")
    for resume in (False, True, True, True):
        assert train.run(c, resume=resume) == train.STOPPED_EARLY
        assert stopped(c)["reason"].startswith("what the model makes of its last inputs is not finite")
        assert names(c) == []


@pytest.mark.parametrize("rate", ["1e4", "1e6"])
def test_weights_that_a_few_words_do_not_betray_push_no_good_checkpoint_out(rate: str, tmp_path: Path) -> None:
    """What an image and its prompt make of them is not finite."""
    c = small("seg_zero_3b", tmp_path, f"trl.learning_rate={rate}")
    c = replace(c, trl={**c.trl, "max_steps": 8})
    assert train.run(c) == train.STOPPED_EARLY
    last = stopped(c)["step"]
    assert last > 1 and names(c) == [f"checkpoint-{last - 1}"]


@pytest.mark.parametrize("name", ["tabletop_sft", "seg_zero_3b", "tabletop_grpo"])  # the last one: shared prefix
def test_weights_that_an_image_alone_betrays_are_not_kept(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == 2:
            with torch.no_grad():
                next(p for n, p in kwargs["model"].named_parameters() if "patch_embed" in n).fill_(3e38)

    monkeypatch.setattr(Watch, "on_optimizer_step", spoilt)
    c = small(name, tmp_path)
    assert train.run(c) == train.STOPPED_EARLY
    reason = "what the model makes of its last inputs is not finite; no checkpoint is written"
    assert stopped(c) == {"step": 2, "reason": reason}
    assert names(c) == ["checkpoint-1"]


class TestCheckpointsThatHaveDivergedBefore:
    """As an older version of this code left them: whole, and not finite."""

    @pytest.fixture
    def c(self, tmp_path: Path) -> Configuration:
        c = small("tabletop_sft", tmp_path)
        c = replace(c, trl={**c.trl, "save_total_limit": 5})
        assert train.run(c) == 0
        return c

    def spoil(self, c: Configuration, *steps: int) -> None:
        for step in steps:
            folder = Path(c.out) / f"checkpoint-{step}"
            if step == UPDATES:
                spoilt = weights(c, step)
                next(iter(spoilt.values())).view(-1)[-1] = float("inf")
                save_file(spoilt, folder / "model.safetensors", metadata={"format": "pt"})
            else:
                state = json.loads((folder / "trainer_state.json").read_text())
                state["log_history"][-1]["grad_norm"] = float("nan")
                (folder / "trainer_state.json").write_text(json.dumps(state))

    def test_are_passed_over_and_said(self, c: Configuration, capsys: pytest.CaptureFixture[str]) -> None:
        good = weights(c, UPDATES)
        self.spoil(c, 2, 3)
        assert train.run(c, resume=True) == 0
        said = capsys.readouterr().err
        assert "checkpoint-3 has diverged: the weight" in said
        assert "checkpoint-2 has diverged: grad_norm was nan at update 2; it is removed" in said
        assert "goes on at checkpoint-1" in said
        assert names(c) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
        assert all(torch.equal(value, good[key]) for key, value in weights(c, UPDATES).items())

    def test_where_none_is_finite_the_run_begins_again(
        self, c: Configuration, capsys: pytest.CaptureFixture[str]
    ) -> None:
        good = weights(c, UPDATES)
        self.spoil(c, 1, 2, 3)
        assert train.run(c, resume=True) == 0
        assert "no checkpoint is finite: begins from the start" in capsys.readouterr().err
        assert all(torch.equal(value, good[key]) for key, value in weights(c, UPDATES).items())

    def test_are_not_exported(self, c: Configuration, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = Path(c.out)
        self.spoil(c, 3)
        assert export.choose(run, "last") == export.choose(run, "best") == run / "checkpoint-2"
        assert "checkpoint-3 has diverged: the weight" in capsys.readouterr().err
        with pytest.raises(ConfigurationError, match=r"checkpoint-3 has diverged.*last finite one is checkpoint-2"):
            export.choose(run, "3")
        made = tmp_path / "made"
        assert export.main([str(run), "--out", str(made), "--checkpoint", "last", "--dtype", "float32"]) == 0
        assert "checkpoint-2 is the last one before it" in capsys.readouterr().err
        assert all(w.isfinite().all() for w in load_file(made / "model.safetensors").values())
        self.spoil(c, 1, 2)
        assert export.main([str(run), "--out", str(tmp_path / "none")]) == 2
        assert "holds no whole checkpoint of finite numbers" in capsys.readouterr().err


FULL = (
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    RuntimeError("[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed writing file data/3"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 391232 vs 391120"),
    ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
)


@pytest.mark.parametrize("error", FULL, ids=lambda e: type(e).__name__)
def test_a_full_disk_is_a_sentence_and_the_run_goes_on_when_there_is_room(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SEGZERO_TRACE", raising=False)
    c = small("tabletop_sft", tmp_path)
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(configuration.plain(c)))
    save = Trainer._save_optimizer_and_scheduler

    def full(self: Any, folder: str) -> None:
        if self.state.global_step == 2:
            raise error
        save(self, folder)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save_optimizer_and_scheduler", full)
        assert train.main([str(file)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"the disk of {c.out} is full" in said and "--resume goes on at checkpoint-1" in said
    assert names(c) == ["checkpoint-1"]
    assert train.main([str(file), "--resume"]) == 0
    assert names(c) == ["checkpoint-3"]


def test_rotation_goes_by_number_since_a_copied_runs_folders_have_any_time(tmp_path: Path) -> None:
    c = small("tabletop_sft", tmp_path)
    c = replace(c, trl={**c.trl, "save_total_limit": 2})
    assert train.run(replace(c, trl={**c.trl, "max_steps": 2, "lr_scheduler_type": "constant"})) == 0
    os.utime(Path(c.out) / "checkpoint-2", (0, 0))  # now the older one by far
    assert train.run(replace(c, trl={**c.trl, "lr_scheduler_type": "constant"}), resume=True) == 0
    assert names(c) == ["checkpoint-2", "checkpoint-3"]
