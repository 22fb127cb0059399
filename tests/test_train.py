"""Training as a specification: rows become the node's prompts, what is said is trained, a killed run goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from segzero_ros.models.reasoner_transformers import load_reasoner
from segzero_ros.profiles import Profile
from training.finetune import configuration, logs
from training.finetune import model as models
from training.finetune import run as train
from training.finetune.configuration import Configuration, ConfigurationError, load
from training.finetune.conversations import RowError, answer_text, messages, prompt_profile, rescale
from training.finetune.conversations import load as load_rows
from training.finetune.prepared import rows_in
from training.finetune.shrink import make_model, make_rows, shrunk
from training.finetune.validate import answer, with_image_part
from training.finetune.watch import Watch, check_inputs
from training.rewards import PROFILES

SINGLE = "<box>(100,110),(200,220)</box><points>(130,140),(170,180)</points>"
LIST = json.dumps([{"bbox_2d": [100, 110, 200, 220], "point_2d": [150, 160]}])


pytestmark = pytest.mark.usefixtures("one_thread")


def small(name: str, folder: Path, *settings_: str) -> Configuration:
    """A configuration made small, without pictures and the measurement before the run."""
    c, _ = shrunk(load(name, ["pictures=false", "watch.spread_prompts=0", *settings_]), folder)
    return c


class TestRows:
    @pytest.mark.parametrize(("form", "solution"), [("single", SINGLE), ("list", LIST)])
    @pytest.mark.parametrize("thought", ["", "It is the only one."])
    def test_the_supervised_text_wins_all_that_its_reward_gives_for_an_answer(
        self, form: Any, solution: str, thought: str
    ) -> None:
        profile = PROFILES["seg-zero" if form == "single" else "vision-reasoner"]
        parts = profile.parts([answer_text(solution, form, thought)], [solution])
        total = sum(values[0] for values in parts.values())
        assert total == (profile.maximum if thought else profile.maximum - 1), "1 for the thought's tags"

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(st.tuples(*[st.integers(0, 839)] * 6), max_size=5), st.sampled_from([1000 / 840, 832 / 840, 56 / 840])
    )
    def test_coordinates_scale_half_up_and_objects_keep_their_order(self, objects: Any, factor: float) -> None:
        solution = json.dumps([{"bbox_2d": list(o[:4]), "point_2d": list(o[4:])} for o in objects])
        found = json.loads(rescale(solution, "list", factor))
        expected = [[int(v * factor + 0.5) for v in o] for o in objects]
        assert [[*item["bbox_2d"], *item["point_2d"]] for item in found] == expected
        assert json.loads(rescale(solution, "list", 1.0)) == json.loads(solution)

    def test_thousandths_for_the_family_that_writes_them(self, tmp_path: Path) -> None:
        c = load("qwen3_vl_4b")
        make_rows(c, tmp_path / "rows", 832)
        plain = load_rows(replace(c.data, coordinates="pixels"), "grpo", str(tmp_path / "rows"))[0]
        thousandths = load_rows(c.data, "grpo", str(tmp_path / "rows"))[0]
        box, scaled = (json.loads(r["solution"])[0]["bbox_2d"] for r in (plain, thousandths))
        assert scaled == [int(v * 1000 / 832 + 0.5) for v in box]

    def test_bad_rows_are_named(self, tmp_path: Path) -> None:
        import datasets

        c = load("seg_zero_3b")
        make_rows(c, tmp_path / "rows", 56)
        rows = datasets.load_from_disk(str(tmp_path / "rows"))
        broken = rows.map(lambda r: {"solution": "<box>(1,2)</box>"} if r["id"] == "made-up-1" else {})
        broken = broken.map(lambda r: {"problem": "<|image_pad|>"} if r["id"] == "made-up-3" else {})
        broken.save_to_disk(str(tmp_path / "broken"))
        with pytest.raises(RowError, match=r"2 rows cannot .*row 1 \(made-up-1\).*row 3 \(made-up-3\)"):
            load_rows(c.data, "grpo", str(tmp_path / "broken"))
        rows.remove_columns(["masks"]).save_to_disk(str(tmp_path / "no_masks"))
        with pytest.raises(ConfigurationError, match="lacks the columns masks"):
            load_rows(c.data, "grpo", str(tmp_path / "no_masks"), masks=True)
        with pytest.raises(ConfigurationError, match="segzero-train prepare"):
            load_rows(c.data, "grpo", str(tmp_path / "nothing"))

    def test_a_set_of_one_split_is_that_split_and_of_several_one_must_be_named(self, tmp_path: Path) -> None:
        import datasets

        c = load("seg_zero_3b")
        make_rows(c, tmp_path / "rows", 56)
        rows = datasets.load_from_disk(str(tmp_path / "rows"))
        datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "one"))
        found = load_rows(c.data, "grpo", str(tmp_path / "one"))
        assert found[0]["solution"] == load_rows(c.data, "grpo", str(tmp_path / "rows"))[0]["solution"]
        assert len(found) == len(rows_in(str(tmp_path / "one"))) == len(rows)
        datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "two"))
        with pytest.raises(ConfigurationError, match="holds train, test; name one of its folders"):
            load_rows(c.data, "grpo", str(tmp_path / "two"))
        assert len(load_rows(c.data, "grpo", str(tmp_path / "two" / "test"))) == len(rows)

    def test_a_newline_after_the_image_in_visionreasoners_training_alone(self) -> None:
        assert messages(load("vision_reasoner_7b").data, "the cup")[-1]["content"].startswith('\nPlease find "the cup"')
        assert messages(load("seg_zero_7b").data, "the cup")[-1]["content"].startswith("Please find 'the cup'")


@pytest.mark.parametrize("name", ["seg_zero_3b", "qwen3_vl_4b", "tabletop_grpo"])
class TestTheNodeAndTheTrainer:
    """What is trained on is what the node asks, token by token and pixel by pixel."""

    def test_see_the_same_tokens_and_pixels_and_answer_alike(self, name: str, tmp_path: Path) -> None:
        c = small(name, tmp_path)
        policy = models.load_model(c.model, models.folder_of(c.model))
        processor = models.load_processor(models.folder_of(c.model), policy.config)
        row = load_rows(c.data, "grpo", c.data.train)[0]
        text = processor.apply_chat_template(
            [with_image_part(row["prompt"])], add_generation_prompt=True, tokenize=False
        )
        inputs = processor(images=[[row["image"]]], text=text, return_tensors="pt")

        profile: Profile = replace(
            prompt_profile(c.data),
            reasoner=c.model.path,
            model_class="qwen3_vl" if name == "qwen3_vl_4b" else "qwen2_5_vl",
            max_new_tokens=6,
        )
        node = load_reasoner(profile, device="cpu", dtype="float32")
        from segzero_ros.core.prompt import build_prompt

        prompt, square = build_prompt(profile, row["problem"]), np.asarray(row["image"])
        assert inputs["input_ids"][0].tolist() == node.prompt_ids(prompt)
        torch.testing.assert_close(inputs["pixel_values"], node.pixel_values([square]), atol=1e-6, rtol=0)
        ids = inputs["input_ids"][0]
        assert inputs["mm_token_type_ids"][0].tolist() == (ids == processor.image_token_id).int().tolist()

        (said,) = node.generate([square], [prompt])
        ((mine,),) = answer(policy, processor, [row], tokens=6, batch=2)
        if "<|image_pad|>" not in node.tokenizer.decode(node._encode(said.text)):
            assert mine.text == said.text

    def test_a_wrong_number_of_image_tokens_or_the_wrong_padding_is_refused(self, name: str, tmp_path: Path) -> None:
        c = small(name, tmp_path)
        policy = models.load_model(c.model, models.folder_of(c.model))
        processor = models.load_processor(models.folder_of(c.model), policy.config)
        rows = load_rows(c.data, "grpo", c.data.train)
        tokens = models.image_tokens(c, policy.config)
        assert check_inputs(c, processor, tokens, rows) > tokens
        with pytest.raises(ConfigurationError, match=f"has {tokens} image tokens"):
            check_inputs(c, processor, tokens + 1, rows)
        processor.tokenizer.padding_side = "right"
        with pytest.raises(ConfigurationError, match="padded on the left"):
            check_inputs(c, processor, tokens, rows)


class TestWhatIsTrained:
    def test_adapters_are_on_every_linear_layer_of_the_language_model_and_on_none_of_the_vision_tower(
        self, tmp_path: Path
    ) -> None:
        from peft import get_peft_model

        for name in ("star_lora_7b", "qwen3_vl_4b"):
            c = small(name, tmp_path / name)
            c = replace(c, model=replace(c.model, lora=configuration.Lora()))
            model = get_peft_model(models.load_model(c.model, Path(c.model.path)), models.adapters(c.model))
            adapted = {n for n, p in model.named_parameters() if p.requires_grad}
            assert adapted
            assert all("language_model" in n and "lora_" in n for n in adapted)
            linear = [
                n
                for n, m in model.get_base_model().named_modules()
                if "language_model" in n and type(m).__name__ == "Linear" and "lora" in n.lower()
            ]
            assert len(adapted) == len([n for n in linear if ".default" in n])
            assert len(adapted) == 2 * 7 * 2, "two matrices on seven layers of two blocks"

    def test_parts_can_be_frozen(self, tmp_path: Path) -> None:
        make_model("qwen2_5_vl_3b", tmp_path / "model")
        base = load("seg_zero_3b").model

        def trained(*parts: Any) -> set[str]:
            found = models.load_model(
                replace(base, path=str(tmp_path / "model"), attention="sdpa", freeze=parts), tmp_path / "model"
            )
            names = [n for n, p in found.named_parameters() if p.requires_grad]
            return {"projector" if "merger" in n else "vision" if "visual" in n else "language" for n in names}

        assert trained() == {"vision", "projector", "language"}
        assert trained("vision") == {"projector", "language"}
        assert trained("vision", "projector") == {"language"}
        with pytest.raises(ConfigurationError, match="nothing is left"):
            trained("vision", "projector", "language")

    def test_a_checkpoint_that_lacks_weights_is_refused(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        from segzero_ros.core.contract import SegzeroError

        make_model("qwen2_5_vl_3b", tmp_path / "model")
        file = tmp_path / "model" / "model.safetensors"
        weights = load_file(file)
        weights.pop(next(name for name in weights if "q_proj.weight" in name))
        save_file(weights, file, metadata={"format": "pt"})
        with pytest.raises(SegzeroError, match="lacks 1 weights"):
            c = replace(load("seg_zero_3b").model, path=str(tmp_path / "model"), attention="sdpa")
            models.load_model(c, tmp_path / "model")


class TestWatch:
    def watch(self, **limits: Any) -> Watch:
        c = load("seg_zero_3b", ["watch.patience=3"])
        return Watch(replace(c, watch=replace(c.watch, **limits)))

    @pytest.mark.parametrize(
        ("key", "bad", "good", "word"),
        [
            ("frac_reward_zero_std", 1.0, 0.5, "no spread"),
            ("kl", 11.0, 0.1, "left it"),
            ("completions/clipped_ratio", 0.95, 0.1, "cut off"),
            ("completions/mean_length", 5.0, 100.0, "stopped writing"),
            ("rewards/thinking_format/mean", 0.1, 0.9, "format"),
        ],
    )
    def test_a_limit_is_held_against_for_some_logs_in_a_row(self, key: str, bad: float, good: float, word: str) -> None:
        watch = self.watch()
        assert [watch.judge({key: v}) for v in (bad, bad, good, bad, bad)] == [""] * 5
        assert word in watch.judge({key: bad})

    def test_what_is_not_finite_stops_at_once(self) -> None:
        assert self.watch().judge({"loss": float("nan")}) == "loss is nan"
        assert self.watch().judge({"grad_norm": float("inf")}) == "grad_norm is inf"

    def test_no_limit_is_not_watched(self) -> None:
        watch = self.watch(kl=None)
        assert not any(watch.judge({"kl": 99.0}) for _ in range(9))

    def test_the_spread_is_that_of_sixteen_prompts(self) -> None:
        assert load("seg_zero_3b").watch.spread_prompts == 16

    def test_a_run_without_spread_stops_and_says_why(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        c = small("seg_zero_3b", tmp_path, "watch.patience=1", "watch.length=null", "watch.format_rate=null")
        assert train.run(c) == train.STOPPED_EARLY
        record = json.loads((Path(c.out) / "stopped.json").read_text())
        assert record["step"] == 1
        assert "no spread of rewards" in record["reason"]
        assert "stopped after update 1" in capsys.readouterr().out


class TestLogs:
    def test_a_run_leaves_numbers_curves_and_a_page(self, tmp_path: Path) -> None:
        c = replace(small("vision_reasoner_7b", tmp_path), pictures=True)
        assert train.run(c) == 0
        out = Path(c.out)
        records = logs.read_jsonl(out / "log.jsonl")
        trained = [r for r in records if "loss" in r]
        wanted = {"reward", "kl", "entropy", "grad_norm", "frac_reward_zero_std", "completions/clipped_ratio"}
        assert all(wanted <= set(r) for r in trained)
        assert [r["step"] for r in records if "eval_reward" in r] == [1, 2]
        assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
        assert list(out.glob("runs/*/events*")), "for TensorBoard"
        samples = logs.read_jsonl(out / "samples.jsonl")
        assert {r["kind"] for r in samples} == {"training", "validation"}
        for record in samples:
            assert (out / "samples" / record["picture"]).is_file()
            assert set(record["rewards"]) == set(PROFILES["vision-reasoner"].terms)
        page = (out / "samples.html").read_text()
        assert page.count("<article>") == len(samples)
        state = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())
        assert state["best_metric"] == max(r["eval_reward"] for r in records if "eval_reward" in r)

    def test_text_of_a_model_is_no_markup(self, tmp_path: Path) -> None:
        record = {"step": 1, "kind": "training", "id": "a", "problem": "<b>", "texts": ["<script>x</script>"]}
        logs.append(tmp_path / "samples.jsonl", record | {"rewards": {"format": [0.0]}, "picture": "a.jpg"})
        logs.page(tmp_path)
        page = (tmp_path / "samples.html").read_text()
        assert "<script>" not in page
        assert "&lt;script&gt;" in page

    def test_a_line_that_a_crash_cut_off_is_left_out_and_later_ones_are_taken_back(self, tmp_path: Path) -> None:
        file = tmp_path / "log.jsonl"
        file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
        logs.take_back(file, 2)
        assert file.read_text() == '{"step": 1}\n{"step": 2}\n'


HOLDS = """
import pathlib, sys
from training.finetune import run as train
with train.alone(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    input()
"""


class TestAnotherRunInTheSameFolder:
    def test_is_refused_unless_it_is_the_same_and_goes_on(self, tmp_path: Path) -> None:
        c = replace(load("seg_zero_3b"), out=str(tmp_path))
        assert train.start(c, resume=False) is None
        with pytest.raises(ConfigurationError, match="--resume"):
            train.start(c, resume=False)
        with pytest.raises(
            ConfigurationError, match=r"other settings: grpo\.beta 0.005 -> 0.1\. .*--accept grpo.beta$"
        ):
            train.start(replace(c, grpo={**c.grpo, "beta": 0.1}), resume=True)
        for step, whole in ((2, True), (10, True), (12, False)):
            (tmp_path / f"checkpoint-{step}").mkdir()
            state = json.dumps({"global_step": step, "max_steps": 90, "log_history": []})
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
            if whole:
                (tmp_path / f"checkpoint-{step}" / train.WHOLE).touch()
        assert train.start(c, resume=True) == tmp_path / "checkpoint-10"
        assert not (tmp_path / "checkpoint-12").exists(), "half written"

    def test_is_refused_over_other_rows(self, tmp_path: Path) -> None:
        import datasets

        c = small("tabletop_grpo", tmp_path)
        train.start(c, resume=False)
        train.start(c, resume=True)
        rows = datasets.load_from_disk(c.data.train)
        rows.map(lambda r: {"problem": r["problem"] + "s"}).save_to_disk(str(tmp_path / "others"))
        (tmp_path / "rows").rename(tmp_path / "before")
        (tmp_path / "others").rename(c.data.train)
        with pytest.raises(ConfigurationError, match=r"other rows or weights: data\.train .*; data\.valid.* changed"):
            train.start(c, resume=True)

    def test_is_refused_while_another_process_is_at_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "run"
        with subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout and other.stdout.readline() == "in\n"
            assert train.main(["tabletop_grpo", "--out", str(out), "--resume"]) == 2
            assert f"another process is at the run in {out}" in capsys.readouterr().err
            other.kill()
        with train.alone(out):
            pass  # a killed process holds nothing

    def test_a_small_run_does_not_overwrite_what_is_there(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "configuration.yaml").write_text("mine")
        assert train.main(["tabletop_sft", "--shrink", "--out", str(tmp_path)]) == 2
        assert "is there already" in capsys.readouterr().err
        assert (tmp_path / "configuration.yaml").read_text() == "mine"

    @pytest.mark.parametrize("out", ["{file}", "{file}/x", "/proc/segzero"])
    def test_a_place_where_none_can_be_is_named(
        self, out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").touch()
        assert train.main(["tabletop_sft", "--out", out.format(file=tmp_path / "file")]) == 2
        assert "cannot be the folder of a run" in capsys.readouterr().err

    def test_that_there_is_nothing_to_go_on_with_is_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert train.start(replace(load("seg_zero_3b"), out=str(tmp_path / "typo")), resume=True) is None
        assert "typo holds no run to go on with; a new one begins" in capsys.readouterr().err

    def test_a_damaged_configuration_or_checkpoint_is_named(self, tmp_path: Path) -> None:
        c = small("tabletop_grpo", tmp_path)
        train.start(c, resume=False)
        file = Path(c.out) / "configuration.yaml"
        whole = file.read_text()
        file.write_text("name: [")
        with pytest.raises(ConfigurationError, match=r"configuration.yaml is not readable YAML"):
            train.start(c, resume=True)
        file.write_text(whole)
        broken = Path(c.out) / "checkpoint-1"
        make_model("embedded", broken)
        for name in (train.WHOLE, "trainer_state.json"):
            (broken / name).write_text('{"global_step": 1, "max_steps": 2, "log_history": []}')
        (broken / "model.safetensors").write_bytes(b"cut off")
        with pytest.raises(ConfigurationError, match=r"checkpoint-1 is damaged .*; remove it"):
            train.run(c, resume=True)

    def test_checkpoints_of_something_else_are_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoint-7").mkdir()
        with pytest.raises(ConfigurationError, match="something else"):
            train.start(replace(load("seg_zero_3b"), out=str(tmp_path)), resume=True)
        assert (tmp_path / "checkpoint-7").is_dir()

    def test_is_looked_for_by_the_first_process_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        c = replace(load("seg_zero_3b"), out=str(tmp_path))
        assert train.start(c, resume=False) is None
        monkeypatch.setenv("RANK", "1")
        assert train.start(c, resume=False) is None, "what the first one has just written is no other run"


# The process ends itself by SIGKILL in the middle of writing its second checkpoint, after another update was logged.
KILLED = """
import os, pathlib, signal, sys
import torch, yaml
torch.set_num_threads(1)
from transformers import Trainer
from training.finetune import configuration, run as train
written = Trainer._save_rng_state
def save(self, folder):
    if self.state.global_step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    written(self, folder)
Trainer._save_rng_state = save
train.run(configuration.build(yaml.safe_load(pathlib.Path(sys.argv[1]).read_text())))
"""


@pytest.mark.long
def test_a_run_killed_while_it_saves_goes_on_to_the_same_weights_with_the_reference_of_the_start(
    tmp_path: Path,
) -> None:
    # A rate at which two updates leave the start far behind, so that another reference would show in the KL.
    c = small("seg_zero_3b", tmp_path, "trl.learning_rate=1e-2", "grpo.beta=0.5", "watch.zero_spread=null")
    c = replace(
        c,
        save_every=2,
        trl={**c.trl, "max_steps": 6},
        watch=replace(c.watch, kl=None, truncated=None, length=None, format_rate=None),
    )
    whole, killed = replace(c, out=str(tmp_path / "whole")), replace(c, out=str(tmp_path / "killed"))
    assert train.run(whole) == 0

    import yaml

    file = tmp_path / "killed.yaml"
    file.write_text(yaml.safe_dump(configuration.plain(killed)))
    ended = subprocess.run([sys.executable, "-c", KILLED, str(file)], capture_output=True, check=False, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]
    out = Path(killed.out)
    assert (out / "checkpoint-4" / "model.safetensors").is_file()
    assert train.last_checkpoint(out) == out / "checkpoint-2"
    assert max(r["step"] for r in logs.read_jsonl(out / "log.jsonl")) == 4

    assert train.run(killed, resume=True) == 0
    mine, theirs = (load_file(Path(run.out) / "checkpoint-6" / "model.safetensors") for run in (whole, killed))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    start = load_file(Path(c.model.path) / "model.safetensors")
    assert not any(torch.equal(mine[name], start[name]) for name in mine if "q_proj.weight" in name)

    def numbers(run: Configuration) -> list[tuple[int, Any, Any, Any]]:
        records = logs.read_jsonl(Path(run.out) / "log.jsonl")
        return [(r["step"], r.get("kl"), r.get("loss"), r.get("eval_reward")) for r in records if "train_loss" not in r]

    assert numbers(whole) == numbers(killed)
    kl = [n[1] for n in numbers(killed) if n[1] is not None]
    assert len(kl) == 6
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[2] > 1e-3, "after the resumption, too, far from the start: a reference read from the checkpoint has none"


@pytest.mark.long
def test_an_interrupted_run_says_how_it_goes_on(tmp_path: Path) -> None:
    import yaml

    c = small("tabletop_sft", tmp_path)
    c = replace(c, trl={**c.trl, "max_steps": 100_000})
    file = tmp_path / "endless.yaml"
    file.write_text(yaml.safe_dump(configuration.plain(c)))
    call = [sys.executable, "-u", "-m", "training.train", str(file)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout and any("'loss'" in line for line in run.stdout)
        run.send_signal(signal.SIGINT)
        last = run.communicate()[0].splitlines()[-1]
    assert (run.returncode, last) == (130, "segzero-train: interrupted; --resume goes on at the last checkpoint")


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["lora_3b_24gb", "tabletop_grpo", "seg_zero_3b_sft", "table8_qwen2_vl_2b", "qwen3_vl_4b"]
)
def test_every_kind_of_run_goes_on_to_the_same_weights(name: str, tmp_path: Path) -> None:
    import shutil

    entropy = [] if name.endswith("_sft") else ["grpo.entropy_coef=0.01"]
    c = small(name, tmp_path, "trl.learning_rate=1e-2", *entropy)
    # Four updates, two epochs; the checkpoint that is gone on from lies within the second.
    c = replace(c, save_every=3, trl={**c.trl, "max_steps": 4})
    assert train.run(c) == 0
    out = Path(c.out)
    file = "adapter_model.safetensors" if c.model.lora else "model.safetensors"
    whole = load_file(out / "checkpoint-4" / file)
    shutil.rmtree(out / "checkpoint-4")
    assert train.run(c, resume=True) == 0
    again, first = load_file(out / "checkpoint-4" / file), load_file(out / "checkpoint-3" / file)
    assert all(torch.equal(again[key], whole[key]) for key in whole)
    assert not all(torch.equal(again[key], first[key]) for key in whole)


def test_a_machine_without_the_training_packages_is_told_what_installs_them(tmp_path: Path) -> None:
    code = "import sys; sys.modules['trl'] = None; from training.cli import main; sys.exit(main(sys.argv[1:]))"
    call = [sys.executable, "-c", code, "train", "tabletop_grpo", "--out", str(tmp_path / "run")]
    ended = subprocess.run(call, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1] == "segzero-train: train needs trl; `make setup` installs what training needs"
