"""What may differ when a run goes on: nothing that decides its weights, unless it is accepted by name and noted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from training.finetune import configuration, export, logs, resume_changes
from training.finetune import run as train
from training.finetune.configuration import Configuration, ConfigurationError, Reward, load
from training.finetune.prepared import masks_digest, rows_in
from training.finetune.shrink import make_rows, shrunk
from training.rewards import PROFILES, Profile

pytestmark = pytest.mark.usefixtures("one_thread")


def small(name: str, folder: Path, *settings: str) -> Configuration:
    quiet = ["pictures=false", "watch.spread_prompts=0", "trl.learning_rate=1e-2", *settings]
    c, _ = shrunk(load(name, quiet), folder)
    watch = replace(c.watch, zero_spread=None, kl=None, truncated=None, length=None, format_rate=None)
    return replace(c, watch=watch)


def changed(c: Configuration, *settings: str) -> Configuration:
    """With further settings, as --set gives them."""
    file = Path(c.out).with_suffix(".yaml")
    file.write_text(yaml.safe_dump(configuration.plain(c)))
    return load(str(file), settings)


def notes(c: Configuration) -> list[tuple[str, str, int]]:
    return [(n["kind"], n["setting"], n["step"]) for n in logs.read_jsonl(Path(c.out) / logs.NOTES)]


def weights(c: Configuration, step: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(Path(c.out) / f"checkpoint-{step}" / "model.safetensors")
    return found


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.fixture
def begun(tmp_path: Path) -> Configuration:
    c = small("seg_zero_3b", tmp_path)
    c = replace(c, model=replace(c.model, attention="eager"), trl={**c.trl, "max_steps": 4})
    train.start(c, resume=False)
    return c


class TestWhatIsTakenOver:
    @pytest.mark.parametrize(
        "setting",
        [
            "batch.micro=4",
            "hardware.memory=40",
            "watch.patience=3",
            "watch.kl=2",
            "pictures=true",
            "wandb=true",
            "trl.max_steps=9",
        ],
    )
    def test_settings(self, setting: str, begun: Configuration, capsys: pytest.CaptureFixture[str]) -> None:
        c = changed(begun, setting)
        assert train.start(c, resume=True) is None
        key = setting.partition("=")[0]
        assert notes(c) == [("taken over", key, 0)]
        assert f"taken over: {key} " in capsys.readouterr().err
        assert configuration.of_run(Path(c.out)) == configuration.plain(c)
        train.start(c, resume=True)
        assert len(notes(c)) == 1, "said once"

    def test_places_of_the_same_rows_and_weights(self, begun: Configuration, tmp_path: Path) -> None:
        shutil.move(begun.data.train, tmp_path / "moved_rows")
        shutil.move(begun.model.path, tmp_path / "moved_model")
        shutil.move(begun.out, tmp_path / "moved_run")
        c = changed(
            begun,
            f"data.train={tmp_path / 'moved_rows'}",
            f"data.validation={tmp_path / 'moved_rows'}",
            f"model.path={tmp_path / 'moved_model'}",
            f"out={tmp_path / 'moved_run'}",
        )
        assert train.start(c, resume=True) is None
        assert {n[:2] for n in notes(c)} == {
            ("taken over", key) for key in ("data.train", "data.validation", "model.path", "out")
        }

    def test_what_an_older_version_wrote_down_without_todays_settings_and_digests(self, begun: Configuration) -> None:
        out = Path(begun.out)
        digests = train._written(out)
        (out / train.DIGESTS).unlink()
        (out / "rows.json").write_text(f'{{"train": "{digests["train"]}"}}')
        old = configuration.of_run(out)
        del old["watch"]["spread_prompts"], old["batch"]["keep"]
        (out / "configuration.yaml").write_text(yaml.safe_dump(old))
        assert train.start(begun, resume=True) is None
        assert [n[1] for n in notes(begun)] == ["watch.spread_prompts"], "its default was another one"


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("setting", "said"),
        [
            ("grpo.beta=0.1", "grpo.beta 0.005 -> 0.1"),
            ("trl.learning_rate=0.5", "trl.learning_rate 0.01 -> 0.5"),
            ("batch.prompts=4", "batch.prompts 2 -> 4"),
            ("hardware.gpus=2", "hardware.gpus 8 -> 2"),
            ("seed=43", "seed 42 -> 43"),
            ("data.rows=3", "data.rows 0 -> 3"),
            ("data.validation=", 'data.validation ".* -> ""'),
            ("trl.max_steps=3", "trl.max_steps 4 -> 3"),
            ("trl.max_steps=-1", "trl.max_steps 4 -> -1"),
            ("model.path=elsewhere", 'model.path ".* -> "elsewhere"'),
        ],
    )
    def test_settings_unless_they_are_accepted(
        self, setting: str, said: str, begun: Configuration, capsys: pytest.CaptureFixture[str]
    ) -> None:
        c, key = changed(begun, setting), setting.partition("=")[0]
        before = configuration.of_run(Path(c.out))
        with pytest.raises(ConfigurationError, match=f"other settings: {said}.*--accept {key}$"):
            train.start(c, resume=True)
        with pytest.raises(ConfigurationError, match=said):
            train.start(c, resume=True, accepted=["trl.weight_decay"])
        assert configuration.of_run(Path(c.out)) == before and notes(c) == []
        train.start(c, resume=True, accepted=[key])
        assert notes(c) == [("accepted", key, 0)]
        assert f"a kink after update 0: {key} " in capsys.readouterr().err

    def test_a_micro_batch_under_a_loss_that_pools_it(self, tmp_path: Path) -> None:
        c = small("vision_reasoner_7b", tmp_path)
        assert c.grpo["loss_type"] == "bnpo"
        train.start(c, resume=False)
        with pytest.raises(ConfigurationError, match=r"batch\.micro 2 -> 1"):
            train.start(changed(c, "batch.micro=1"), resume=True)
        taught = small("vision_reasoner_7b_sft", tmp_path / "sft")  # whose loss is another one
        train.start(taught, resume=False)
        train.start(changed(taught, "batch.micro=1"), resume=True)

    def test_a_micro_batch_that_a_share_of_the_tokens_is_taken_of(self, begun: Configuration) -> None:
        picky = changed(begun, "grpo.top_entropy_quantile=0.5")
        decisive, _ = resume_changes.changes(
            changed(picky, "batch.micro=1"), configuration.plain(picky), {}, {}, step=0
        )
        assert [change.setting for change in decisive] == ["batch.micro"]

    def test_more_updates_of_a_schedule_that_they_stretch(self, tmp_path: Path) -> None:
        c = small("seg_zero_3b_sft", tmp_path)
        assert c.trl["lr_scheduler_type"] == "cosine"
        train.start(c, resume=False)
        with pytest.raises(ConfigurationError, match=r"trl\.max_steps 2 -> 4"):
            train.start(changed(c, "trl.max_steps=4"), resume=True)

    @pytest.mark.parametrize("what", ["texts", "images"])
    def test_other_rows_in_the_same_place(self, what: str, begun: Configuration, tmp_path: Path) -> None:
        rows = rows_in(begun.data.train)
        if what == "texts":
            other = rows.map(lambda r: {"problem": r["problem"] + "s"})
        else:
            other = rows.map(lambda r: {"image": r["image"].rotate(180)}, features=rows.features)
        other.save_to_disk(str(tmp_path / "other"))
        shutil.rmtree(begun.data.train)
        shutil.move(tmp_path / "other", begun.data.train)
        with pytest.raises(ConfigurationError, match=r"over other rows or weights: data\.train .* has changed"):
            train.start(begun, resume=True)
        train.start(begun, resume=True, accepted=["data.train", "data.validation"])
        assert {n[:2] for n in notes(begun)} == {("accepted", "data.train"), ("accepted", "data.validation")}
        train.start(begun, resume=True)

    def test_other_start_weights_in_the_same_place_since_the_reference_is_read_from_there_again(
        self, begun: Configuration
    ) -> None:
        file = Path(begun.model.path) / "model.safetensors"
        other = {key: value + 1 for key, value in load_file(file).items()}
        save_file(other, file, metadata={"format": "pt"})
        with pytest.raises(ConfigurationError, match=r"model\.path .* has changed"):
            train.start(begun, resume=True)

    def test_accept_goes_with_resume(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            train.main(["seg_zero_3b", "--accept", "grpo.beta"])
        assert "--accept goes with --resume" in capsys.readouterr().err

    def test_a_call_that_fails_leaves_the_run_as_it_was(self, begun: Configuration) -> None:
        out = Path(begun.out)
        before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
        c = changed(begun, "model.path=elsewhere", "grpo.beta=0.1")
        with pytest.raises(Exception, match="elsewhere"):
            train.run(c, resume=True, accepted=["model.path", "grpo.beta"])
        assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} - {"lock": b""}.keys() == before.keys()
        assert all((out / name).read_bytes() == text for name, text in before.items())


def test_a_run_that_is_moved_and_called_from_elsewhere_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = small("seg_zero_3b", tmp_path / "first", "trl.save_total_limit=2")
    c = replace(c, trl={**c.trl, "max_steps": 4})
    monkeypatch.chdir(tmp_path / "first")
    c = changed(c, "data.train=rows", "data.validation=rows", "model.path=model", "out=run")
    assert train.run(c) == 0
    goal = weights(c, 4)
    shutil.rmtree("run/checkpoint-4")
    (tmp_path / "second").mkdir()
    monkeypatch.chdir(tmp_path / "second")
    shutil.move(tmp_path / "first" / "run", "moved")
    where = tmp_path / "first"
    moved = load(str(where / "run.yaml"), ["out=moved", f"model.path={where}/model", f"data.train={where}/rows"])
    moved = replace(moved, data=replace(moved.data, validation=f"{where}/rows"))
    assert train.run(moved, resume=True) == 0
    assert equal(goal, weights(moved, 4))
    assert len(train.checkpoints(Path("moved"))) <= 3, "the best one beside the last two, though its path was another"


@pytest.mark.parametrize(("warmup", "free"), [("2", True), ("0.5", False)])
def test_more_updates_are_refused_where_the_warm_up_is_a_share_of_them(warmup: str, free: bool, tmp_path: Path) -> None:
    c = small("seg_zero_3b", tmp_path, "trl.lr_scheduler_type=constant_with_warmup", f"trl.warmup_steps={warmup}")
    old = configuration.plain(changed(c, "trl.max_steps=4"))
    decisive, taken = resume_changes.changes(changed(c, "trl.max_steps=12"), old, {}, {}, 4)
    assert [change.setting for change in (taken if free else decisive)] == ["trl.max_steps"]
    assert not (decisive if free else taken)


def test_other_masks_are_other_rows(tmp_path: Path) -> None:
    def rows(name: str, masks: list[str]) -> str:
        datasets.Dataset.from_dict({"id": ["a"], "problem": ["b"], "masks": [masks]}).save_to_disk(tmp_path / name)
        return str(tmp_path / name)

    one, same, other = rows("one", ["x"]), rows("same", ["x"]), rows("other", ["y"])
    assert masks_digest(one) == masks_digest(same) != masks_digest(other)


@pytest.mark.parametrize("name", ["seg_zero_3b", "tabletop_grpo"])
def test_more_updates_and_another_micro_batch_lead_where_the_longer_run_leads(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digits(texts: Any, solutions: Any, **_: Any) -> list[float]:
        return [float(sum(map(ord, text)) % 7) for text in texts]

    monkeypatch.setitem(
        PROFILES, "digits", Profile("digits", "a test", 6.0, {"digits": digits}, solution=load(name).data.answer)
    )
    settings = ["trl.save_total_limit=9", "data.validation=", "watch.format_term=", "grpo.temperature=1"]
    c = small(name, tmp_path, *settings)
    c = replace(c, reward=Reward("digits"), data=replace(c.data, validation=""))
    whole = changed(replace(c, out=str(tmp_path / "whole")), "trl.max_steps=4")
    short = changed(replace(c, out=str(tmp_path / "short")), "trl.max_steps=2")
    assert train.run(whole) == 0 and train.run(short) == 0
    assert equal(weights(whole, 2), weights(short, 2))
    longer = changed(short, "trl.max_steps=4", *(["batch.micro=1"] if name == "seg_zero_3b" else []))
    assert train.run(longer, resume=True) == 0
    mine, theirs, before = weights(longer, 4), weights(whole, 4), weights(whole, 2)
    apart = max(float((mine[key] - value).abs().max()) for key, value in theirs.items())
    moved = max(float((before[key] - value).abs().max()) for key, value in theirs.items())
    assert apart < 0.01 * moved
    assert train.run(longer, resume=True) == 0, "it has come to its end"


class TestKinks:
    @pytest.fixture
    def c(self, tmp_path: Path) -> Configuration:
        c = small("seg_zero_3b_sft", tmp_path)
        c = replace(
            c, trl={**c.trl, "max_steps": 4, "save_total_limit": 9, "lr_scheduler_type": "constant", "warmup_steps": 0}
        )
        assert train.run(c) == 0
        for step in (3, 4):
            shutil.rmtree(Path(c.out) / f"checkpoint-{step}")
        return c

    def test_an_accepted_setting_takes_effect_and_is_seen_by_whoever_reads_the_run(
        self, c: Configuration, tmp_path: Path
    ) -> None:
        bent = changed(c, "trl.learning_rate=0.02", "trl.weight_decay=0.5", "save_every=2", "pictures=true")
        accepted = ["trl.learning_rate", "trl.weight_decay", "save_every"]
        assert train.run(bent, resume=True, accepted=accepted) == 0
        out = Path(c.out)
        rates = [r["learning_rate"] for r in logs.read_jsonl(out / "log.jsonl") if "loss" in r]
        assert rates == [0.01, 0.01, 0.02, 0.02]
        state: Any = torch.load(out / "checkpoint-4" / "optimizer.pt", weights_only=True)
        assert {g["weight_decay"] for g in state["param_groups"]} == {0.5, 0.0}, "norms and biases have none"
        assert [p.name for p in train.checkpoints(out)] == ["checkpoint-1", "checkpoint-2", "checkpoint-4"]
        assert {n for n in notes(c) if n[0] == "accepted"} == {("accepted", key, 2) for key in accepted}
        assert (2, "trl.learning_rate 0.01 -> 0.02") in logs.kinks(out)
        card = export.card(bent, out, 4, [], "qwen2_5_vl")
        assert "## Kinks" in card and "* after update 2: trl.learning_rate 0.01 -> 0.02" in card
        assert "## Kinks" not in export.card(bent, out, 2, [], "qwen2_5_vl"), "before it"
        with_kinks = (out / "curves.png").read_bytes()
        (out / logs.NOTES).unlink()
        logs.curves(out / "log.jsonl", out / "curves.png")
        assert (out / "curves.png").read_bytes() != with_kinks

    def test_begin_where_the_run_goes_on_with_them(self, c: Configuration) -> None:
        bent = changed(c, "trl.learning_rate=0.02")
        train.start(bent, resume=True, accepted=["trl.learning_rate"])
        assert notes(c) == [("accepted", "trl.learning_rate", 2)]
        shutil.rmtree(Path(c.out) / "checkpoint-2")
        train.start(bent, resume=True)
        assert notes(c) == [("accepted", "trl.learning_rate", 1)]


@pytest.mark.parametrize("key", ["torch_compile_backend", "sections_of_old"])
def test_a_run_begun_under_an_older_rule_names_the_key_and_goes_on_without_it(
    key: str, begun: Configuration, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(begun.out) / "configuration.yaml"
    old = configuration.of_run(file.parent)
    section, name = (old["trl"], f"trl.{key}") if key.startswith("torch") else (old["model"], f"model.{key}")
    section[key] = "foo"
    del old["seed"]  # there was none yet: today's default
    file.write_text(yaml.safe_dump(old))
    c = replace(begun, seed=42)
    with pytest.raises(
        ConfigurationError, match=rf"{name} \"foo\" -> null\. What it began with is refused today"
    ) as said:
        train.start(c, resume=True)
    assert str(said.value).endswith(f"go on with a kink: --accept {name}"), "and nothing else differs"
    assert train.start(c, resume=True, accepted=[name]) is None
    assert configuration.of_run(file.parent) == configuration.plain(c)


def test_a_refusal_is_of_bounded_length(begun: Configuration) -> None:
    c = replace(begun, trl={**begun.trl, **{f"x{n}": "y" * 10_000 for n in range(1000)}})
    decisive, _ = resume_changes.changes(c, configuration.of_run(Path(c.out)), {}, {}, 0)
    with pytest.raises(ConfigurationError, match="and 992 more") as raised:
        resume_changes.judge(Path(c.out), decisive, ())
    assert len(str(raised.value)) < 2000


class TestValidationRowsThatAreTrainedOn:
    def test_get_a_warning(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        c = load("tabletop_sft", [f"data.train={tmp_path / 'a'}", f"data.validation={tmp_path / 'b'}"])
        make_rows(c, tmp_path / "a", c.data.square)
        rows_in(c.data.train).save_to_disk(c.data.validation)
        call = ["tabletop_sft", "--dry-run", "--set", f"data.train={tmp_path / 'a'}", "--set"]
        for folder in ("a", "b"):
            assert train.main([*call, f"data.validation={tmp_path / folder}"]) == 0
            assert "holds the rows of data.train" in capsys.readouterr().err
        datasets.Dataset.from_list(
            [dict(row, id="other") for row in rows_in(c.data.train)], features=rows_in(c.data.train).features
        ).save_to_disk(str(tmp_path / "c"))
        assert train.main([*call, f"data.validation={tmp_path / 'c'}"]) == 0
        assert "warning" not in capsys.readouterr().err

    def test_before_a_run_too(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        c = small("tabletop_sft", tmp_path)
        file = tmp_path / "c.yaml"
        file.write_text(yaml.safe_dump(configuration.plain(c)))
        assert train.main([str(file)]) == 0
        assert capsys.readouterr().err.count("warning: data.validation") == 1
