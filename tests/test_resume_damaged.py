"""What is damaged or gone when a run goes on is named in one sentence, and nothing is removed for it."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from training.finetune import configuration, export, logs, whole_checkpoints
from training.finetune import run as train
from training.finetune.configuration import Configuration, load
from training.finetune.shrink import shrunk
from training.finetune.whole_checkpoints import damage_of, mark_whole, whole_ones

pytestmark = pytest.mark.usefixtures("one_thread")
Spoil = Callable[[Path], None]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """A run of four updates that was killed after the second one, saved after each."""
    c, _ = shrunk(load("tabletop_sft", ["pictures=false"]), tmp_path_factory.mktemp("trained"))
    c = replace(c, trl={**c.trl, "max_steps": 4, "save_total_limit": 9})
    assert train.run(c) == 0
    for step in (3, 4):
        shutil.rmtree(Path(c.out) / f"checkpoint-{step}")
    return c


@pytest.fixture
def c(trained: Configuration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configuration:
    monkeypatch.delenv("SEGZERO_TRACE", raising=False)
    shutil.copytree(trained.out, tmp_path / "run")
    copied = replace(trained, out=str(tmp_path / "run"))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(configuration.plain(copied)))
    return copied


def resume(c: Configuration, *more: str) -> int:
    return train.main([str(Path(c.out).parent / "c.yaml"), "--resume", *more])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def cut(name: str) -> Spoil:
    def spoil(checkpoint: Path) -> None:
        whole = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(whole[: len(whole) // 2])

    return spoil


def written(name: str, data: bytes) -> Spoil:
    def spoil(checkpoint: Path) -> None:
        (checkpoint / name).write_bytes(data)

    return spoil


def gone(name: str) -> Spoil:
    return lambda checkpoint: (checkpoint / name).unlink()


def flipped(name: str) -> Spoil:
    """Bytes in the file's midst, more than a padding's, its length as it was."""

    def spoil(checkpoint: Path) -> None:
        data = bytearray((checkpoint / name).read_bytes())
        middle = len(data) // 2
        data[middle : middle + 200] = bytes(value ^ 0xFF for value in data[middle : middle + 200])
        (checkpoint / name).write_bytes(bytes(data))

    return spoil


def state(**changes: Any) -> Spoil:
    """With these keys in the trainer's state; the mark is of an older version, which held no sizes."""

    def spoil(checkpoint: Path) -> None:
        file = checkpoint / "trainer_state.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        (checkpoint / train.WHOLE).write_text("2\n")

    return spoil


def one_bit(name: str, where: float = 0.9) -> Spoil:
    """Of one byte, its length as it was: in a weight another number, as finite as the one before."""

    def spoil(checkpoint: Path) -> None:
        data = bytearray((checkpoint / name).read_bytes())
        data[int(where * (len(data) - 1))] ^= 1
        (checkpoint / name).write_bytes(bytes(data))

    return spoil


class Harm:
    def __reduce__(self) -> Any:
        return (print, ("harm was done",))


def harmful(name: str) -> Spoil:
    """A pickle that would call a function, in a file whose checksums and mark are right."""

    def spoil(checkpoint: Path) -> None:
        torch.save({"state": {}, "param_groups": [], "last_epoch": Harm()}, checkpoint / name)
        (checkpoint / train.WHOLE).write_text("2\n")

    return spoil


def a_pickle_alone(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").write_bytes(pickle.dumps(Harm()))
    (checkpoint / train.WHOLE).write_text("2\n")


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        *((name, cut(name)) for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors")),
        *((name, gone(name)) for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors")),
        *((name, written(name, b"")) for name in ("optimizer.pt", "trainer_state.json", "config.json")),
        ("optimizer.pt", flipped("optimizer.pt")),
        ("model.safetensors", one_bit("model.safetensors")),
        ("trainer_state.json", one_bit("trainer_state.json", 0)),
        ("tokenizer.json", one_bit("tokenizer.json", 0.5)),
        ("trainer_state.json", cut("trainer_state.json")),
        ("trainer_state.json", gone("trainer_state.json")),
        ("trainer_state.json", written("trainer_state.json", b"\xff\xfe")),
        ("optimizer.pt", harmful("optimizer.pt")),
        ("scheduler.pt", harmful("scheduler.pt")),
        ("optimizer.pt", a_pickle_alone),
    ],
)
def test_a_damaged_file_is_named_and_the_run_stays_as_it_was(
    name: str, spoil: Spoil, c: Configuration, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(c.out)
    spoil(out / "checkpoint-2")
    before = contents(out)
    assert resume(c) == 2
    said = capsys.readouterr()
    (line,) = [text for text in said.err.splitlines() if text.startswith("segzero-train: ")]
    assert line.startswith(f"segzero-train: {out}/checkpoint-2 is damaged ({name}: ")
    assert line.endswith("; remove it, and --resume goes on at checkpoint-1") and len(line) < 600
    assert "Traceback" not in said.err and "harm was done" not in said.out
    assert contents(out) == before
    shutil.rmtree(out / "checkpoint-2")
    assert resume(c) == 0
    assert [r["step"] for r in logs.read_jsonl(out / "log.jsonl") if "loss" in r] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"global_step": 10**9}, "its global_step is 1000000000"),
        ({"global_step": "2"}, "global_step: "),
        ({"global_step": None}, "global_step: "),
        ({"max_steps": [1]}, "max_steps: "),
        ({"epoch": float("inf")}, "epoch: "),
        ({"log_history": [1, 2]}, "log_history.0: "),
        ({"log_history": "x" * 100_000}, "log_history: "),
        ({"best_model_checkpoint": {"a": 1}}, "best_model_checkpoint: "),
        ({"x" * 10_000: 1}, "xxx"),
    ],
)
def test_a_trainers_state_is_read_as_what_anybody_may_have_written(
    changes: dict[str, Any], said: str, c: Configuration, capsys: pytest.CaptureFixture[str]
) -> None:
    state(**changes)(Path(c.out) / "checkpoint-2")
    assert resume(c) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("segzero-train: ")]
    assert f"is damaged (trainer_state.json: {said}" in line and len(line) < 600
    assert export.choose(Path(c.out), "last") == Path(c.out) / "checkpoint-2", "whose weights are good"
    assert export.main([c.out, "--out", f"{c.out}-made"]) == 2, "which one is best stands in that file"
    assert "trainer_state.json: " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[" * 100_000, "1", "null", '{"global_step": ' + "9" * 5000 + "}"])
def test_a_trainers_state_that_is_no_state_is_named(
    text: str, c: Configuration, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Path(c.out) / "checkpoint-2"
    (checkpoint / "trainer_state.json").write_text(text)
    (checkpoint / train.WHOLE).write_text("2\n")
    assert resume(c) == 2
    assert "is damaged (trainer_state.json: " in capsys.readouterr().err


def test_states_that_are_whole_and_do_not_fit_are_named(c: Configuration, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = Path(c.out) / "checkpoint-2"
    (checkpoint / train.WHOLE).write_text("2\n")
    whole = contents(checkpoint)
    for name, value in (
        ("optimizer.pt", {"state": {}, "param_groups": []}),
        ("scheduler.pt", {"last_epoch": "soon"}),
        ("rng_state.pth", {"python": 1, "numpy": 2, "cpu": 3}),
    ):
        torch.save(value, checkpoint / name)
        assert resume(c) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"segzero-train: {checkpoint} is damaged (") and name.partition(".")[0] in said
        (checkpoint / name).write_bytes(whole[name])
    assert resume(c) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state | {"exp_avg": torch.zeros(3, 5)}, "exp_avg of "),
        (lambda state: state | {"exp_avg_sq": state["exp_avg_sq"].flatten()[:-1]}, "exp_avg_sq of "),
        (lambda state: state | {"exp_avg": "soon"}, "exp_avg of "),
        (lambda state: {"step": state["step"]}, "holds step, and that of others exp_avg, exp_avg_sq, step"),
    ],
)
def test_an_optimisers_state_of_another_shape_is_named_with_file_and_weight(
    change: Callable[[dict[str, Any]], dict[str, Any]], said: str, c: Configuration, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Path(c.out) / "checkpoint-2"
    found = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    found["state"][1] = change(found["state"][1])
    torch.save(found, checkpoint / "optimizer.pt")
    (checkpoint / train.WHOLE).write_text("2\n")
    assert resume(c) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"segzero-train: {checkpoint} is damaged (optimizer.pt: ") and said in line
    assert line.endswith("remove it, and --resume goes on at the one before") and len(line) < 600


def test_an_optimiser_without_states_would_begin_anew_and_is_refused(
    c: Configuration, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Path(c.out) / "checkpoint-2"
    found = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    torch.save(found | {"state": {}}, checkpoint / "optimizer.pt")
    (checkpoint / train.WHOLE).write_text("2\n")
    assert resume(c) == 2
    assert f"{checkpoint} is damaged (optimizer.pt: it holds no weight's state)" in capsys.readouterr().err


class TestDigests:
    def test_of_weights_of_which_one_bit_is_another_are_seen_by_an_export(
        self, c: Configuration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        one_bit("model.safetensors")(Path(c.out) / "checkpoint-2")
        assert export.main([c.out, "--checkpoint", "2", "--out", str(tmp_path / "made")]) == 2
        assert "is damaged (model.safetensors: its bytes are not those that were written)" in capsys.readouterr().err
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize("name", ["pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__1_0.distcp"])
    def test_of_shards_are_read(self, name: str, tmp_path: Path) -> None:
        checkpoint = tmp_path / "checkpoint-2"
        (checkpoint / name).parent.mkdir(parents=True)
        (checkpoint / name).write_bytes(bytes(3_000_000))
        (checkpoint / "trainer_state.json").write_text('{"global_step": 2, "max_steps": 4, "log_history": []}')
        mark_whole(checkpoint)
        assert damage_of(checkpoint) == ""
        one_bit(name)(checkpoint)
        assert damage_of(checkpoint) == f"{name}: its bytes are not those that were written"

    def test_are_sha256_of_all_files_but_those_with_checksums_of_their_own(self, c: Configuration) -> None:
        checkpoint = Path(c.out) / "checkpoint-2"
        noted = json.loads((checkpoint / train.WHOLE).read_text())
        own = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
        assert set(noted["files"]) == {*noted["sha256"], *own} == {*contents(checkpoint)} - {train.WHOLE}
        for name, digest in noted["sha256"].items():
            assert digest == hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
        assert not list(Path(c.out).glob("*.whole")), "no half of a mark is left"

    @pytest.mark.parametrize("text", ['{"files": {}, "sha256": 1}', '{"sha256": {"/dev/zero": "0", "../x": []}}', "[]"])
    def test_of_a_mark_that_anybody_may_have_written_name_no_file_outside(self, text: str, c: Configuration) -> None:
        checkpoint = Path(c.out) / "checkpoint-2"
        (checkpoint / train.WHOLE).write_text(text)
        assert damage_of(checkpoint) == ""

    def test_of_much_are_announced(
        self, c: Configuration, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        damage_of(Path(c.out) / "checkpoint-2")
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(whole_checkpoints, "ANNOUNCED", 0)
        damage_of(Path(c.out) / "checkpoint-2")
        assert f"GB of {c.out}/checkpoint-2, whether all is as written" in capsys.readouterr().err


def test_weights_under_other_names_are_named(c: Configuration, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = Path(c.out) / "checkpoint-2"
    (checkpoint / "config.json").write_text("[]")
    (checkpoint / train.WHOLE).write_text("2\n")
    assert resume(c) == 2
    assert f"{checkpoint} is damaged (the weights: " in capsys.readouterr().err


def test_damaged_weights_are_not_exported_and_a_damaged_optimiser_does_not_matter(
    c: Configuration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(c.out)
    cut("optimizer.pt")(out / "checkpoint-2")
    call = [c.out, "--checkpoint", "2", "--dtype", "float32", "--out"]
    assert export.main([*call, str(tmp_path / "made")]) == 0
    assert load_file(tmp_path / "made" / "model.safetensors")
    cut("model.safetensors")(out / "checkpoint-2")
    assert export.main([*call, str(tmp_path / "no")]) == 2
    assert f"{out}/checkpoint-2 is damaged (model.safetensors: " in capsys.readouterr().err
    assert not (tmp_path / "no").exists() and not (tmp_path / "no.part").exists()


def test_a_checkpoint_as_it_was_written_has_no_damage_and_files_beside_it_are_none(c: Configuration) -> None:
    for checkpoint in whole_ones(Path(c.out)):
        (checkpoint / "notes.txt").write_text("mine")
        assert damage_of(checkpoint) == ""
        with zipfile.ZipFile(checkpoint / "optimizer.pt") as archive:
            assert any(entry.CRC for entry in archive.infolist()), "there are checksums to look at"


class TestRowsThatAreGone:
    @pytest.fixture
    def c(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configuration:
        monkeypatch.delenv("SEGZERO_TRACE", raising=False)
        c, _ = shrunk(load("tabletop_sft", ["pictures=false"]), tmp_path)
        shutil.copytree(c.data.train, tmp_path / "val")
        c = replace(c, data=replace(c.data, validation=str(tmp_path / "val")))
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(configuration.plain(c)))
        train.start(c, resume=False)
        return c

    @pytest.mark.parametrize("key", ["data.train", "data.validation", "model.path"])
    def test_are_said_to_be_gone(self, key: str, c: Configuration, capsys: pytest.CaptureFixture[str]) -> None:
        section, name = key.split(".")
        place = getattr(getattr(c, section), name)
        shutil.move(place, f"{place}-elsewhere")
        assert resume(c) == 2
        said = capsys.readouterr().err
        assert f'{c.out} cannot go on: {key}, "{place}", is not there. Put it back' in said
        assert f"--set {key}=FOLDER" in said
        assert resume(c, "--accept", key) == 2, "nothing can be learnt from it"

    def test_are_said_to_be_gone_where_they_are_looked_for_now(
        self, c: Configuration, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert resume(c, "--set", "data.train=typo") == 2
        said = capsys.readouterr().err
        assert f'data.train, "typo" ("{c.data.train}" when it began), is not there in {tmp_path}' in said
        assert "other settings" not in said


class TestAcceptedNames:
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("trl.lerning_rate", "there is no such setting (do you mean trl.learning_rate?)"),
            ("learning_rate", "there is no such setting (do you mean trl.learning_rate?)"),
            ("trl", "there is no such setting"),
            ("", "there is no such setting"),
            ("x" * 10_000, "there is no such setting"),
        ],
    )
    def test_that_no_setting_has_are_refused_with_those_that_differ(
        self, name: str, said: str, c: Configuration, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = contents(Path(c.out))
        more = ["--set", "trl.learning_rate=0.5", "--set", "seed=9", "--accept", "trl.learning_rate", "--accept", name]
        assert resume(c, *more) == 2
        (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("segzero-train: ")]
        assert said in line and "seed, trl.learning_rate" in line and len(line) < 600
        assert contents(Path(c.out)) == before

    def test_of_settings_that_do_not_differ_any_more_do_no_harm(self, c: Configuration) -> None:
        again = ["--set", "trl.learning_rate=0.5", "--accept", "trl.learning_rate", "--accept", "trl.adam_beta2"]
        assert resume(c, *again) == 0
        assert resume(c, *again) == 0, "the call of a script that starts it again and again"
