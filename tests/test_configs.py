"""Every configuration: checked, run small, its published knobs and TRL's defaults pinned, its sizes counted."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from safetensors.torch import load_file

from segzero_ros.core.prompt import build_prompt
from segzero_ros.profiles import load_profile
from training.finetune import checks, configuration, defaults, dry_run, sft, sharding
from training.finetune import run as train
from training.finetune.configuration import ConfigurationError, load
from training.finetune.conversations import prompt_profile
from training.finetune.shrink import make_rows
from training.rewards import PROFILES

NAMES = [path.stem for path in configuration.every()]
ACCELERATE = sorted((configuration.FOLDER / "accelerate").glob("*.yaml"))
RECIPES = (
    "seg_zero_3b",
    "seg_zero_7b",
    "vision_reasoner_7b",
    "qwen3_vl_4b",
    "star_lora_7b",
    "lora_3b_24gb",
    "qlora_24gb",
)


pytestmark = pytest.mark.usefixtures("one_thread")


# What the published code does (Seg-Zero's 3B yaml and scripts; VisionReasoner's scripts; StAR's), as TRL calls it.
SEG_ZERO = {
    "num_train_epochs": 1,
    "num_generations": 8,
    "max_completion_length": 1300,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "learning_rate": 1e-6,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "weight_decay": 1e-2,
    "max_grad_norm": 1.0,
    "beta": 5e-3,
    "use_bias_correction_kl": False,
    "vllm_importance_sampling_correction": False,
    "entropy_coef": 1e-3,
    "epsilon": 0.2,
    "epsilon_high": None,
    "num_iterations": 1,
    "loss_type": "grpo",
    "importance_sampling_level": "token",
    "scale_rewards": "group",
    "mask_truncated_completions": False,
    "sync_ref_model": False,
    "top_entropy_quantile": 1.0,
    "gradient_checkpointing": True,
    "bf16": True,
    "seed": 42,
    "reward_weights": [1.0] * 5,
    "save_steps": 50,
    "logging_nan_inf_filter": False,
}
VISION_REASONER = SEG_ZERO | {
    "beta": 1e-2,
    "max_completion_length": 2000,
    "loss_type": "bnpo",
    "reward_weights": [1.0] * 3,
    "save_steps": 100,
    "vllm_gpu_memory_utilization": 0.6,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "seg_zero_3b": SEG_ZERO,
    "seg_zero_7b": SEG_ZERO,
    "table9_7b": SEG_ZERO | {"num_generations": 16},
    "vision_reasoner_7b": VISION_REASONER,
    "vision_reasoner_without_non_repeat": VISION_REASONER | {"reward_weights": [1.0, 1.0, 0.0]},
    # What TRL has of DAPO (arXiv 2503.14476).
    "vision_reasoner_dapo": VISION_REASONER
    | {
        "loss_type": "dapo",
        "epsilon_high": 0.28,
        "mask_truncated_completions": True,
        "beta": 0.0,
        "entropy_coef": 0.0,
    },
    "star_lora_7b": SEG_ZERO
    | {
        "learning_rate": 1e-5,
        "weight_decay": 1e-3,
        "beta": 0.0,
        "loss_type": "bnpo",
        "entropy_coef": 0.0,
        "num_generations": 16,
        "per_device_train_batch_size": 2,
        "max_completion_length": 2048,
        "reward_weights": [1.0] * 3,
    },
    "star_stage_2": SEG_ZERO
    | {
        "num_train_epochs": 10,
        "learning_rate": 5e-6,
        "weight_decay": 1e-3,
        "beta": 0.0,
        "loss_type": "bnpo",
        "entropy_coef": 0.0,
        "num_generations": 256,
        "save_steps": 5,
        "max_completion_length": 2048,
        "reward_weights": [1.0] * 3,
        "per_device_train_batch_size": 32,  # answered; 2 are learnt from
    },
    "table1_without_thought": SEG_ZERO | {"reward_weights": [1.0, 0.0, 1.0, 1.0, 1.0]},
}


class TestEveryFile:
    @pytest.mark.parametrize("name", NAMES)
    def test_says_what_it_is_for_and_comes_out_even(self, name: str) -> None:
        c = load(name)
        assert len(c.answers) > 20
        assert c.accumulation(max(1, c.hardware.gpus)) >= 1
        assert c.model.licence
        assert c.hardware.hours
        assert c.method == ("sft" if name.endswith("_sft") else "grpo")
        if c.hardware.sharding != "none":
            assert (configuration.FOLDER / "accelerate" / f"{c.hardware.sharding}.yaml").is_file()
        text = configuration.find(name).read_text(encoding="utf-8")
        assert "hours" not in text or "estimate" in text or "the authors'" in text

    def test_every_recipe_has_a_supervised_twin_of_the_same_rows_and_prompts(self) -> None:
        for name in RECIPES:
            c, twin = load(name), load(f"{name}_sft")
            assert (c.model, c.data, c.batch.prompts) == (twin.model, twin.data, twin.batch.prompts)
            assert twin.arguments["max_length"] is None, "TRL's 1024 would cut answers off"

    def test_every_row_of_the_papers_tables_is_there(self) -> None:
        assert {f"table3_kl_{k}" for k in ("1e-3", "5e-3", "1e-2", "5e-2")} <= set(NAMES)
        assert {f"table4_samples_{n}" for n in (4, 8, 16)} <= set(NAMES)
        equal = [load(name) for name in ("table4_equal_4", "table4_samples_8", "table4_equal_16")]
        assert [c.generations for c in equal] == [4, 8, 16]
        assert {c.samples for c in equal} == {128}
        assert load("table6_soft_accuracy").reward.profile == "seg-zero-soft-accuracy"
        assert load("table7_strict_format").reward.profile == "seg-zero"
        words = {n: build_prompt(prompt_profile(load(n).data), "The Red Mug.") for n in NAMES}
        assert "'points_1'" in words["table5_with_example"] and "'points_1'" not in words["table5_without_example"]
        for name in ("table1_without_thought", "vision_reasoner_without_thought"):
            assert "think" not in words[name] and "the red mug" in words[name], (
                "the question as in the published prompt"
            )

    @pytest.mark.long
    @pytest.mark.parametrize("name", NAMES)
    def test_runs_two_updates_small(self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert train.main([name, "--shrink", "--out", str(tmp_path), "--set", "pictures=false"]) == 0
        c = load(name)
        log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        trained = [r for r in log if "loss" in r]
        assert [r["step"] for r in trained] == [1, 2]
        assert set(next(r for r in log if "eval_reward" in r)) >= {
            f"eval_rewards/{term}" for term in PROFILES[c.reward.profile].terms
        }
        if c.method == "grpo":
            assert ("kl" in trained[0]) == (c.grpo["beta"] > 0)
            assert ("entropy_coef" in trained[0]) == (c.grpo["entropy_coef"] > 0)
            assert "rewards of the start model" in capsys.readouterr().out
        saved = tmp_path / "checkpoint-2" / ("adapter_model.safetensors" if c.model.lora else "model.safetensors")
        names = list(load_file(saved))
        assert any("q_proj" in n for n in names)
        assert any("visual" in n for n in names) == (c.model.lora is None), "the vision tower has no adapters"


class TestAblationsOfVisionReasoner:
    @pytest.mark.parametrize(
        ("name", "beside", "varied"),
        [
            ("vision_reasoner_data_refcocog", "vision_reasoner_7b", {"data.train"}),
            ("vision_reasoner_data_grefcoco", "vision_reasoner_7b", {"data.train"}),
            ("vision_reasoner_data_lvis", "vision_reasoner_7b", {"data.train"}),
            ("vision_reasoner_without_non_repeat", "vision_reasoner_data_refcocog", {"reward.weights.non_repeat"}),
            (
                "vision_reasoner_dapo",
                "vision_reasoner_data_refcocog",
                {
                    f"grpo.{key}"
                    for key in ("loss_type", "epsilon_high", "mask_truncated_completions", "beta", "entropy_coef")
                },
            ),
        ],
    )
    def test_vary_what_they_name_and_nothing_else(self, name: str, beside: str, varied: set[str]) -> None:
        changed = configuration.differences(configuration.plain(load(name)), configuration.plain(load(beside)))
        assert set(changed) - {"name", "answers", "out", "hardware.hours"} == varied
        assert load(name).answers.startswith("VisionReasoner (arXiv 2505.12081)")


@pytest.mark.parametrize("prompts", ["box", "points"])
def test_profiles_of_table_2_differ_from_seg_zeros_in_what_sam_is_given(prompts: str) -> None:
    ours = load_profile(str(configuration.FOLDER / "profiles" / f"seg-zero-{prompts}.yaml"))
    assert ours.sam_prompts == prompts
    known = load_profile("seg-zero")
    assert replace(ours, name=known.name, description=known.description, sam_prompts="both") == known


class TestPublishedKnobs:
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_are_what_the_trainer_gets(self, name: str) -> None:
        from training.finetune.grpo import arguments

        # bf16 needs a GPU to be asked for.
        c = load(name, ["trl.use_cpu=true"])
        args = arguments(c)
        got = {key: getattr(args, key) for key in PUBLISHED[name]}
        assert got == PUBLISHED[name]
        assert args.gradient_accumulation_steps * args.per_device_train_batch_size == c.samples
        assert args.generation_batch_size == c.samples, "one update per rollout"
        assert not args.remove_unused_columns

    def test_whole_training_holds_float32_weights_and_trains_the_vision_tower(self) -> None:
        for name in NAMES:
            c = load(name)
            if c.model.lora is None:
                assert (c.model.dtype, c.model.freeze) == ("float32", ())

    def test_squares_and_image_tokens(self) -> None:
        from training.finetune.model import image_tokens

        for name, tokens in (("seg_zero_7b", 900), ("qwen3_vl_4b", 676), ("tabletop_grpo", 196)):
            c = load(name)
            assert image_tokens(c, dry_run.meta_model(c).config) == tokens
        with pytest.raises(ConfigurationError, match="multiple of 28"):
            c = load("seg_zero_3b", ["data.square=850"])
            image_tokens(c, dry_run.meta_model(c).config)


class TestDefaultsOfTrl:
    def test_are_the_pinned_ones(self) -> None:
        changed = defaults.changes()
        assert not changed, "\n".join(
            ["TRL's defaults changed; look at each, then `-m training.finetune.defaults --write`:", *changed]
        )

    def test_a_change_is_shown(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        pinned = json.loads(defaults.FILE.read_text())
        pinned["GRPOConfig"]["beta"] = 0.04
        del pinned["SFTConfig"]["packing"]
        monkeypatch.setattr(defaults, "FILE", tmp_path / "pinned.json")
        defaults.FILE.write_text(json.dumps(pinned))
        assert defaults.changes() == ["GRPOConfig.beta was 0.04 and is 0.0", "SFTConfig.packing is new: False"]

    @pytest.mark.parametrize("name", ["seg_zero_3b", "vision_reasoner_7b", "star_lora_7b", "seg_zero_3b_sft"])
    def test_each_is_kept_stated_overridden_or_worked_out(self, name: str) -> None:
        from training.finetune import grpo, sft

        c = load(name, ["trl.use_cpu=true"])
        rows = defaults.table(c)
        for key, default, ours, how in rows:
            print(f"{key:44} {how:10} {default!s:28} {ours!s}")
        found = {key: how for key, _, _, how in rows}
        assert set(found) == {f.name for f in fields(defaults.kinds()["SFTConfig" if "sft" in name else "GRPOConfig"])}
        args: Any = (sft if "sft" in name else grpo).arguments(c)
        for key, default, ours, how in rows:
            given = getattr(args, key)
            given = getattr(given, "value", given)  # of an enumeration
            assert ours == given or ours == str(given), f"{key}: the trainer gets {given!r}"
            assert (ours == default) == (how in ("kept", "stated")), key
        # Whatever else TRL should come to change behind our back is not in here, and fails.
        of_cpu = {"dataloader_pin_memory"}
        of_others = {"activation_checkpointing", "do_eval", "generation_batch_size", "steps_per_generation"}
        of_none = {"accelerator_config", "debug", "disable_tqdm", "pad_to_multiple_of"}
        assert {key for key, how in found.items() if how == "worked out"} == (of_cpu | of_others | of_none) & set(found)
        if name == "seg_zero_3b":
            traps = "beta loss_type entropy_coef use_bias_correction_kl vllm_importance_sampling_correction"
            traps += " lr_scheduler_type max_completion_length weight_decay"
            assert all(found[key] == "overridden" for key in traps.split())
            assert found["learning_rate"] == "stated"
            assert found["delta"] == "kept"
        if "sft" in name:
            assert found["max_length"] == "overridden"


class TestDryRun:
    @pytest.mark.parametrize("architecture", sorted(dry_run.PARAMETERS))
    def test_the_published_number_of_parameters(self, architecture: str) -> None:
        c = load("seg_zero_3b", ["model.path=mine", f"model.architecture={architecture}"])
        assert dry_run.sizes(dry_run.meta_model(c)).all == dry_run.PARAMETERS[architecture]

    def test_a_wrong_dimension_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(dry_run.PARAMETERS, "qwen2_5_vl_3b", 3_754_622_975)
        with pytest.raises(ValueError, match="should have"):
            dry_run.meta_model(load("seg_zero_3b"))

    def test_bytes_of_a_gpu(self) -> None:
        c = load("seg_zero_7b")
        model = dry_run.meta_model(c)
        gpu, host = dry_run.memory(c, dry_run.sizes(model), model.config, 900)
        assert gpu["weights"] == gpu["reference"] == gpu["gradients"] == pytest.approx(8_292_166_656 * 4 / 8 / 1e9)
        assert gpu["optimiser (AdamW)"] == pytest.approx(2 * gpu["weights"])
        assert set(host) == {"while loading"}
        # 28 layers, keys and values of 4 heads x 128, two bytes each.
        assert dry_run.kv_bytes(model.config) == 2 * 28 * 4 * 128 * 2
        c = load("seg_zero_7b", ["rollout=transformers", "hardware.sharding=fsdp_offload"])
        gpu, host = dry_run.memory(c, dry_run.sizes(model), model.config, 900)
        assert gpu["KV cache, 16 answers at once"] == pytest.approx(16 * (900 + 250 + 1300) * 57344 / 1e9)
        assert "weights" not in gpu
        assert host["weights"] == pytest.approx(8_292_166_656 * 4 / 1e9)

    def test_what_must_fit_fits(self) -> None:
        for name in ("lora_3b_24gb", "qlora_24gb", "seg_zero_7b"):
            text = dry_run.report(load(name))
            assert "fits in" in text
            assert "NOT" not in text
            assert "estimate" in text
        assert "does NOT fit" in dry_run.report(load("seg_zero_7b", ["hardware.gpus=1", "hardware.sharding=none"]))
        assert "unknown number of" in dry_run.report(load("seg_zero_3b", ["data.train=somewhere"]))

    def test_adapters_alone_are_trained(self) -> None:
        sizes = dry_run.sizes(dry_run.meta_model(load("star_lora_7b")))
        # Rank 64 on q, k, v, o, gate, up and down of 28 layers.
        per_layer = 64 * (2 * 3584 + 2 * (3584 + 512) + 2 * 3584 + 3 * (3584 + 18944))
        assert sizes.trained == 28 * per_layer
        assert sizes.all == 8_292_166_656

    def test_the_hours_in_the_files_are_its_estimates(self) -> None:
        for name in ("seg_zero_3b", "seg_zero_7b", "qlora_24gb", "lora_3b_24gb_sft", "table9_7b", "table4_equal_4"):
            c = load(name)
            model = dry_run.meta_model(c)
            found = dry_run.hours(c, dry_run.sizes(model), model.config, 900, dry_run.updates_of(c))
            assert c.hardware.hours == pytest.approx(sum(found.values()), rel=0.2, abs=0.06)

    def test_on_the_command_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert train.main(["seg_zero_7b", "--dry-run"]) == 0
        out = capsys.readouterr().out
        assert "8,292,166,656 parameters" in out
        assert "562 updates" in out


class TestWrongConfigurations:
    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("reward.profile=seg-one", "known: seg-zero"),
            ("reward.weights.box=1", "has no box; it has box_iou"),
            ("data.answer=list", "reads 'single'"),
            ("data.sqare=840", "data.sqare"),
            ("batch.micro=0", "batch.micro"),
            ("model.architecture=gpt", "known: embedded"),
            ("model.dtype=bfloat16", "rounded away"),
            ("model.quantise=nf4", "below LoRA"),
            ("trl.seed=1", "trl.seed comes from other settings"),
            ("rollout=sglang", "rollout"),
            ("engine=shared_prefix", "rollout must be transformers"),
            ("trl", "expected key=value"),
            ("name.x=1", "no section"),
            ("trl.beta=[1", "is not readable YAML"),
            ("trl.learning_rate=fast", "learning_rate is 'fast'; expected a number"),
            ("data.prompt=seg_zero", "no {question}; templates: seg-zero, "),
            ("grpo.num_generations=0", "a group has at least 2"),
            ("trl.num_train_epochs=-1", "neither max_steps nor num_train_epochs is above 0"),
            ("trl.bf16=maybe", "bf16: expected true or false"),
            ("grpo.num_generations=null", "num_generations is None; expected a whole number"),
            ("grpo.num_generations=[8]", "num_generations is .8.; expected a whole number"),
            ("grpo.num_generations=.inf", "num_generations is inf; expected a whole number"),
            ("trl.max_steps=1.5", "max_steps is 1.5; expected a whole number"),
            ("trl.learning_rate=.nan", "learning_rate is nan; expected a number"),
            ("trl.learning_rate=-1", "learning_rate is -1; expected above 0"),
            ("grpo.max_completion_length=-5", "expected at least 1"),
            ("grpo.top_p=7", "top_p is 7; expected above 0, at most 1"),
            ("grpo.beta=null", "beta is None"),
            ("grpo.loss_type=foo", "loss_type 'foo'; known: grpo, "),
            ("grpo.num_iterations=0", "num_iterations is 0; expected at least 1"),
            ("grpo.vllm_gpu_memory_utilization=1.5", "utilization is 1.5; expected above 0, at most 1"),
            ("grpo.top_k=-1", "top_k is -1; expected at least 0"),
            ("grpo.min_p=2", "min_p is 2; expected at least 0, at most 1"),
            ("grpo.top_entropy_quantile=1.1", "at most 1"),
            ("grpo.importance_sampling_level=word", "'word'; known: token, sequence"),
            ("grpo.scale_rewards=all", "'all'; known: group, batch, none"),
            ("trl.warmup_steps=1.5", "expected a whole number, or a share of all updates"),
            ("trl.adam_beta2=9", "adam_beta2 is 9; expected at least 0, below 1"),
            ("trl.warmup_steps=4", "warmup_steps is 4 and lr_scheduler_type constant, which has none"),
            ("trl.logging_steps=300 trl.max_steps=200", "logging_steps is 300; expected at most max_steps, 200"),
            ("trl.label_smoothing_factor=2", "label_smoothing_factor is 2; expected at least 0, below 1"),
            ("trl.label_smoothing_factor=0.1", "it does nothing: GRPO has no labels"),
            ("trl.entropy_coef=1", "trl.entropy_coef does nothing beside grpo.entropy_coef"),
            ("grpo.entropy_coef=2", "entropy_coef is 2; expected at least 0, at most 1"),
            ("trl.fsdp=full_shard", "fsdp is 'full_shard'; how a model is sharded says hardware.sharding"),
            ("trl.deepspeed=zero3.json", "deepspeed is 'zero3.json'; how a model is sharded says hardware.sharding"),
            ("trl.learning_rate=0", "learning_rate is 0; expected above 0"),
            ("trl.adam_beta1=1", "adam_beta1 is 1; expected at least 0, below 1"),
            ("trl.adam_epsilon=0", "adam_epsilon is 0; expected above 0"),
            ("trl.max_grad_norm=-1", "max_grad_norm is -1; expected at least 0"),
            ("trl.max_steps=" + "9" * 400, "expected a number of at most 15 digits"),
            ("trl.ddp_timeout=soon", "ddp_timeout is 'soon'; expected a whole number"),
            ("trl.fp16=true", "fp16 and bf16 are both true; expected one of them"),
            ("trl.log_level=loud", "log_level 'loud'; known: passive, debug"),
            ("trl.logging_strategy=epoch", "logging_strategy 'epoch'; known: steps"),
            ("trl.activation_checkpointing=false", "is False; its name here is gradient_checkpointing"),
            ("trl.gradient_checkpointing_kwargs={reentrant: true}", "has reentrant; known: use_reentrant"),
            ("trl.bf16_full_eval=true", "it does nothing: validation is by greedy answers"),
            ("trl.hub_model_id=a/b", "it does nothing: a run is sent nowhere"),
            ("trl.ignore_data_skip=true", "would see its first rows again"),
            ("trl.dataloader_persistent_workers=true", "nothing comes of it without dataloader_num_workers above 0"),
            ("grpo.epsilon=0", "epsilon is 0; expected above 0, at most 1"),
            ("grpo.delta=1.1", "delta is 1.1; expected above 1 . epsilon, 1.2"),
            ("grpo.sapo_temperature_pos=2", "nothing comes of it without loss_type: sapo"),
            ("grpo.sync_ref_model=true grpo.beta=0", "sync_ref_model is true and beta 0"),
            ("grpo.use_transformers_paged=true", "TRL answers so without images only"),
            ("grpo.vllm_importance_sampling_mode=word", "'word'; known: sequence_mask, "),
            ("trl.torch_compile_backend=foo", "torch_compile_backend 'foo'; known: None, inductor"),
            ("trl.liger_kernel_config={rope: true}", "nothing comes of it without use_liger_kernel: true"),
            ("trl.optim_target_modules=[q_proj]", "nothing comes of it without an optim of GaLore or APOLLO"),
            ("trl.optim=galore_adamw", "optim 'galore_adamw' needs optim_target_modules"),
            ("sft.max_length=4", "--set sft.max_length: nothing comes of it, since method is grpo"),
            ("sft={max_length: 4}", "--set sft.max_length: nothing comes of it"),
            ("out=", "out is empty; expected a folder"),
            ("trl.num_train_epochs=1e+308", "num_train_epochs is 1e.308; expected at least -1, at most"),
            (r'out="a\0b"', "out is 'a.*b'; expected a folder"),
            ("name=../x", "name is '../x'; expected a folder's name"),
            ("name=..", "name is '..'; expected a folder's name"),
            ("name=", "name is ''; expected a folder's name"),
            ("name=" + "x" * 300, "at most 100 characters"),
            ("trl.save_total_limit=0", "save_total_limit is 0; expected at least 1"),
            ("watch.zero_spread=1.5", "watch.zero_spread"),
            ("watch.truncated=95", "watch.truncated"),
            ("watch.kl=.nan", "watch.kl"),
            ("watch.format_rate=.nan", "watch.format_rate is nan; expected a finite number"),
            ("reward.weights.box_iou=.nan", "reward.weights.box_iou is nan; expected a finite number"),
            ("reward.weights.box_iou=.inf", "reward.weights.box_iou is inf; expected a finite number"),
            (
                "reward.weights={thinking_format: 0, answer_format: 0, box_iou: 0, box_l1: 0, point_l1: 0}",
                "all are 0, so every answer wins alike",
            ),
            ("seed=-1", "seed"),
            ("seed=2020-99-99", "--set seed=2020-99-99: 2020-99-99 is not readable YAML"),
            ("hardware.memory=-1", "hardware.memory"),
            ("model.path=Qwen/Qwen2.5-VL-7B-Instruct", "set qwen2_5_vl_7b"),
        ],
    )
    def test_are_named(self, setting: str, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            load("seg_zero_3b", [setting] if "={" in setting or "=[" in setting else setting.split())

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("trl.warmup_steps=1000 trl.max_steps=5", "warmup_steps is 1000; expected at most the 5 updates"),
            ("trl.label_smoothing_factor=1", "label_smoothing_factor is 1; expected at least 0, below 1"),
            ("sft.packing=true", "packing is True; it is for texts without images"),
            ("sft.max_length=1024", "max_length is 1024; expected null"),
            ("sft.loss_type=grpo", "loss_type 'grpo'; known: nll, dft"),
            ("sft.pad_to_multiple_of=8", "pad_to_multiple_of 8; known: auto, None"),
            ("trl.train_sampling_strategy=group_by_length", "known: random, sequential"),
            ("trl.loss_type=dft", "trl.loss_type does nothing beside sft.loss_type"),
            ("grpo.beta=0.1", "--set grpo.beta: nothing comes of it, since method is sft"),
        ],
    )
    def test_of_supervised_training_are_named(self, setting: str, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            load("seg_zero_3b_sft", setting.split())

    def test_the_length_of_answers_is_of_both_methods_since_validation_answers(self) -> None:
        assert load("seg_zero_3b_sft", ["grpo.max_completion_length=300"]).completion == 300

    def test_a_folder_in_the_home_is_there_for_all_that_a_run_writes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/somebody")
        assert load("seg_zero_3b", ["out=~/runs/one"]).out == "/home/somebody/runs/one"

    def test_a_length_that_trl_would_cut_at_by_default(self, tmp_path: Path) -> None:
        data = configuration.plain(load("seg_zero_3b_sft"))
        del data["sft"]["max_length"]
        with pytest.raises(ConfigurationError, match="max_length is 1024 by default; expected null"):
            configuration.build(data)

    @pytest.mark.parametrize(
        "setting",
        [
            "trl.label_smoothing_factor=0",
            "trl.fsdp=null",
            "trl.max_grad_norm=0",
            "trl.warmup_steps=0.5 trl.lr_scheduler_type=cosine",
            "trl.warmup_steps=5 trl.lr_scheduler_type=cosine trl.max_steps=5",
            "grpo.delta=1.5",
            "grpo.generation_kwargs={no_repeat_ngram_size: 3}",
            "trl.dataloader_persistent_workers=true trl.dataloader_num_workers=2",
            "trl.ddp_backend=nccl",
        ],
    )
    def test_right_ones_beside_them_are_taken(self, setting: str) -> None:
        dry_run.check(load("seg_zero_3b", [setting] if "={" in setting else setting.split()))

    @pytest.mark.parametrize(
        ("setting", "package"), [("wandb=true", "wandb"), ("hardware.sharding=zero3", "deepspeed")]
    )
    def test_a_library_that_is_asked_for_and_missing_is_told_at_once_by_a_dry_run_too(
        self,
        setting: str,
        package: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        there = checks.find_spec
        monkeypatch.setattr(checks, "find_spec", lambda name: None if name == package else there(name))
        for more in (["--dry-run"], []):
            assert train.main(["tabletop_grpo", "--set", setting, "--out", str(tmp_path / "run"), *more]) == 2
            assert f"needs {package}, which is not installed" in capsys.readouterr().err
        assert train.main(["tabletop_sft", "--shrink", "--set", setting, "--set", "pictures=false"]) == 0

    def test_deepspeed_asked_for_by_the_accelerate_file_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "find_spec", lambda name: None)
        c = load("tabletop_grpo")
        checks.check_installed(c)
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        with pytest.raises(ConfigurationError, match="needs deepspeed"):
            checks.check_installed(c)

    def test_lora_needs_ten_times_the_rate(self) -> None:
        with pytest.raises(ConfigurationError, match="1e-5"):
            load("star_lora_7b", ["trl.learning_rate=1e-6"])

    def test_a_name_that_trl_does_not_have(self) -> None:
        from training.finetune.grpo import arguments

        with pytest.raises(ConfigurationError, match=r"num_generation \(do you mean num_generations\?\)"):
            arguments(load("tabletop_grpo", ["grpo.num_generation=4"]))

    def test_an_uneven_update(self) -> None:
        with pytest.raises(ConfigurationError, match="do not divide"):
            load("seg_zero_3b", ["batch.micro=3"]).accumulation(8)

    def test_files(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
        a.write_text("base: b.yaml\n")
        b.write_text("base: a.yaml\n")
        with pytest.raises(ConfigurationError, match="back to itself"):
            load(str(a))
        a.write_text("[1")
        with pytest.raises(ConfigurationError, match="not readable YAML"):
            load(str(a))
        a.write_text("x: " + 3000 * "[")
        with pytest.raises(ConfigurationError, match="not readable YAML"):
            load(str(a))
        a.write_text("base: gone.yaml\n")
        with pytest.raises(ConfigurationError, match=r"a.yaml: there is no .*gone.yaml"):
            load(str(a))
        assert train.main(["nothing", "--dry-run"]) == 2
        assert "there is no configuration 'nothing'; known: demo_grpo, lora_3b_24gb" in capsys.readouterr().err

    def test_places_that_are_not_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = f"out={tmp_path / 'run'}"
        here = ["--set", "rollout=transformers", "--set", "trl.use_cpu=true", "--set", "data.validation=", "--set", out]
        rows, weights = ["--set", f"data.train={tmp_path / 'rows'}"], ["--set", "model.path=/nowhere"]
        assert train.main(["seg_zero_3b", *rows, *weights, *here]) == 2
        assert f"no folder '{tmp_path / 'rows'}'" in capsys.readouterr().err, "before weights are looked for"
        make_rows(load("seg_zero_3b"), tmp_path / "rows", 840)
        assert train.main(["seg_zero_3b", *rows, *weights, *here]) == 2
        assert "has 4 rows, and an update takes 16" in capsys.readouterr().err
        assert train.main(["seg_zero_3b", *rows, *weights, *here, "--set", "batch.prompts=4"]) == 2
        assert "no folder /nowhere" in capsys.readouterr().err
        assert not (tmp_path / "run" / "configuration.yaml").exists(), "the mended call finds no run there"
        assert train.main(["seg_zero_3b", "--set", f"data.train={tmp_path}", "--dry-run"]) == 2
        assert "not readable by datasets.load_from_disk" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("trl.learning_rat=1", "do you mean learning_rate?"),
            ("trl.optim=foo", "optim is 'foo'; known: adamw_torch, "),
            ("trl.lr_scheduler_type=foo", "lr_scheduler_type is 'foo'; known: linear, cosine, "),
            (
                "trl.lr_scheduler_type=cosine_with_min_lr",
                "lr_scheduler_type cosine_with_min_lr with lr_scheduler_kwargs",
            ),
            ("trl.lr_scheduler_type=cosine trl.lr_scheduler_kwargs={cycles:2}", "argument 'cycles:2'"),
            ("trl.optim_args=foo", "optim_args is 'foo'; expected name=value"),
            ("trl.debug=5", "debug 5; known: , underflow_overflow"),
            ("trl.delta=3", "trl holds what both methods have; delta belongs to grpo: grpo.delta"),
            ("grpo.cache_implementation=foo", "cache_implementation is 'foo'; known: dynamic, "),
            ("grpo.generation_kwargs={foo:1}", "transformers has no foo:1"),
            ("grpo.vllm_server_base_url=5", "vllm_server_base_url is '5'; expected a text"),
            ("trl.use_liger_kernel=true", "needs liger_kernel, which is not installed"),
            ("trl.optim=adalomo", "optim: adalomo needs lomo_optim, which is not installed: pip install lomo_optim"),
            ("data.train={rows}", "has 4 rows, and an update takes 16"),
        ],
    )
    def test_what_training_would_refuse_a_dry_run_does_too(
        self, setting: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_rows(load("lora_3b_24gb"), tmp_path, 840)
        settings = [x for s in setting.replace("{rows}", str(tmp_path)).split(" ") for x in ("--set", s)]
        out = tmp_path / "run"
        for way in (["--dry-run"], ["--set", "trl.use_cpu=true", "--set", "rollout=transformers"]):
            assert train.main(["lora_3b_24gb", *settings, "--out", str(out), *way]) == 2
            said = capsys.readouterr().err
            assert message in said and said.count("\n") == 1 and len(said) < 700
            assert not list(out.glob("*")), "nothing is begun"

    @pytest.mark.parametrize("place", ["/proc/x", "/proc/1/x/y", "{file}/run", "{long}", ""])
    def test_a_folder_that_cannot_be_written_is_told_by_a_dry_run_too(
        self, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("")
        out = place.format(file=tmp_path / "file", long=tmp_path / ("x" * 300))
        for way in (["--dry-run"], []):
            assert train.main(["tabletop_grpo", "--out", out, *way]) == 2
            said = capsys.readouterr().err
            assert ("out is empty" if not out else out[:200]) in said and said.count("\n") == 1

    def test_a_dry_run_leaves_nothing_behind(self, tmp_path: Path) -> None:
        assert train.main(["tabletop_grpo", "--out", str(tmp_path / "runs" / "one"), "--dry-run"]) == 0
        assert not list(tmp_path.iterdir())

    def test_a_warm_up_that_outlasts_the_rows_gets_a_warning(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_rows(load("seg_zero_3b_sft"), tmp_path / "rows", 840)
        few = ["seg_zero_3b_sft", "--set", f"data.train={tmp_path / 'rows'}", "--set", "batch.prompts=1"]
        few += ["--set", "hardware.gpus=1", "--dry-run"]
        assert train.main([*few, "--set", "trl.num_train_epochs=1"]) == 0
        assert "warning: warmup_steps is 20; expected at most the 4 updates of the run" in capsys.readouterr().err
        assert train.main([*few, "--set", "trl.num_train_epochs=5"]) == 0
        assert "warmup_steps" not in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("name", "settings", "message"),
        [
            # Prepared rows teach no thought, which the reward segzero wants.
            ("tabletop_sft", ("reward.profile=segzero",), "pays nothing for the right answer of row made-up-0"),
            ("star_lora_7b", ("batch.prompts=4",), "lacks the columns masks"),
            (
                "star_lora_7b",
                ("batch.prompts=4", "data.train=nowhere", "data.validation={rows}"),
                "lacks the columns masks",
            ),
        ],
    )
    def test_a_reward_that_cannot_judge_the_rows_is_told_by_a_dry_run(
        self, name: str, settings: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        c = load(name)
        make_rows(c, tmp_path / "whole", c.data.square)
        whole = datasets.load_from_disk(str(tmp_path / "whole"))
        kept = [n for n in whole.column_names if n not in ("masks", "thought", "completion")]
        whole.select_columns(kept).save_to_disk(str(tmp_path / "rows"))
        given = [f"data.train={tmp_path / 'rows'}", *(s.format(rows=tmp_path / "rows") for s in settings)]
        call = [x for s in given for x in ("--set", s)]
        assert train.main([name, *call, "--dry-run"]) == 2
        assert message in capsys.readouterr().err

    def test_prepared_rows_of_the_tabletop_are_taught_as_configured(self, tmp_path: Path) -> None:
        c = load("tabletop_sft", [f"data.train={tmp_path / 'rows'}", f"data.validation={tmp_path / 'rows'}"])
        make_rows(c, tmp_path / "rows", c.data.square)
        assert "completion" not in datasets.load_from_disk(str(tmp_path / "rows")).column_names, (
            "as prepare leaves them"
        )
        dry_run.check(c)

    def test_numbers_are_those_of_yaml_1_2(self, tmp_path: Path) -> None:
        file = tmp_path / "c.yaml"
        file.write_text(
            f"base: {configuration.FOLDER / 'seg_zero_3b.yaml'}\ngrpo: {{beta: 5e-2, epsilon: .3, top_k: 7}}\n"
        )
        grpo = load(str(file)).grpo
        assert (grpo["beta"], grpo["epsilon"], grpo["top_k"]) == (0.05, 0.3, 7)
        assert isinstance(grpo["top_k"], int)
        assert grpo["loss_type"] == "grpo", "what a file does not name is its base's"


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda p: p.stem)
def test_accelerate_reads_its_files(path: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    assert config.mixed_precision == "bf16"
    data = yaml.safe_load(path.read_text())
    for key in data.get("fsdp_config", {}):
        assert config.fsdp_config[key] == data["fsdp_config"][key]


def test_the_keys_of_fsdp_are_accelerates(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin

    for path in ACCELERATE:
        keys = yaml.safe_load(path.read_text()).get("fsdp_config", {})
        known = {f"fsdp_{f.name}" for f in fields(FullyShardedDataParallelPlugin)} | {"fsdp_offload_params"}
        known |= {"fsdp_version", "fsdp_auto_wrap_policy"}
        assert set(keys) <= known


class TestGradientsUnderFsdp:
    @pytest.fixture(params=["fsdp", "fsdp_offload", "fsdp_two_nodes"])
    def launched(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """The environment that `accelerate launch` makes of a file for the processes of a run."""
        from accelerate.commands.launch import _validate_launch_command, launch_command_parser
        from accelerate.utils.launch import prepare_multi_gpu_env

        file = configuration.FOLDER / "accelerate" / f"{request.param}.yaml"
        call = ["--config_file", str(file), "--main_process_port", "0", "-m", "training.train"]
        args, _, _ = _validate_launch_command(launch_command_parser().parse_args(call))
        for key, value in prepare_multi_gpu_env(args).items():
            if key.startswith(("FSDP_", "ACCELERATE_")):
                monkeypatch.setenv(key, value)

    def test_are_summed_in_float32_as_published_and_computed_in_bfloat16(self, launched: None) -> None:
        plugin = sharding.fsdp_plugin(os.environ["ACCELERATE_MIXED_PRECISION"])
        plugin.set_mixed_precision("bf16")  # as accelerate's state does with a plugin that it is given
        policy = plugin.mixed_precision_policy
        assert (policy.param_dtype, policy.reduce_dtype) == (torch.bfloat16, torch.float32)
        assert plugin.fsdp_version == 2
        assert bool(plugin.cpu_offload.__class__.__name__ == "CPUOffloadPolicy") == (
            os.environ["FSDP_OFFLOAD_PARAMS"] == "true"
        ), "all else is the file's"

    def test_would_be_summed_in_bfloat16_by_accelerate_alone(self, launched: None) -> None:
        from accelerate.utils import FullyShardedDataParallelPlugin

        plugin = FullyShardedDataParallelPlugin()
        plugin.set_mixed_precision(os.environ["ACCELERATE_MIXED_PRECISION"])
        assert plugin.mixed_precision_policy.reduce_dtype == torch.bfloat16, "then sharding.py can go"

    def test_are_what_both_trainers_ask_accelerate_for(
        self, launched: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        from training.finetune.grpo import trainer_class

        for kind in (sft.Trainer, trainer_class("stock"), trainer_class("shared_prefix")):
            trainer = kind.__new__(kind)
            trainer.model = None
            trainer.args = sft.arguments(load("tabletop_sft", ["trl.bf16=false", "trl.use_cpu=true"]))
            trainer.args.mixed_precision = "bf16"
            plugin = trainer._build_accelerator_args(fsdp_plugin=None)["fsdp_plugin"]
            assert plugin.mixed_precision_policy.reduce_dtype == torch.float32


def test_without_fsdp_there_is_no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert sharding.fsdp_plugin("bf16") is None


def test_a_setting_without_a_value_is_an_empty_text() -> None:
    c = configuration.load("lora_3b_24gb", ["data.validation=", "out=here"])
    assert (c.data.validation, c.out) == ("", "here")
