"""What --shrink says that it replaced, and what --dry-run counts of segmenters and of supervised answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.finetune import configuration, dry_run
from training.finetune.configuration import load
from training.finetune.shrink import shrunk, told


class TestShrink:
    @pytest.mark.parametrize("name", ["seg_zero_7b", "qlora_24gb", "star_lora_7b", "qwen3_vl_4b_sft"])
    def test_says_every_setting_that_differs(self, name: str, tmp_path: Path) -> None:
        c = load(name)
        small, said = shrunk(c, tmp_path)
        assert said == told(c, small)
        differ = configuration.differences(configuration.plain(c), configuration.plain(small))
        assert [line.partition(":")[0] for line in said[2:]] == differ
        assert {"model.path", "batch.prompts", "data.square", "data.train", "trl.max_steps", "trl.optim"} <= set(differ)
        text = "\n".join(said)
        for line in (
            f'trl.optim: "{c.trl["optim"]}" -> (default)',
            "trl.max_steps: (default) -> 2",
            f"batch.prompts: {c.batch.prompts} -> 2",
            f"grpo.max_completion_length: {c.grpo['max_completion_length']} -> 6",
            f"grpo.num_generations: {c.grpo['num_generations']} -> 2",
        ):
            assert line in text
        assert ('model.quantise: "nf4" -> "none"' in text) == (name == "qlora_24gb")
        assert ('reward.segmenter: "facebook/sam2.1-hiera-large" -> "embedded"' in text) == (name == "star_lora_7b")
        assert "a random one of its class" in text


class TestDryRun:
    def counted(self, name: str, *settings: str) -> tuple[dict[str, float], dict[str, float]]:
        """GB of a GPU and hours, by part."""
        c = load(name, settings)
        model = dry_run.meta_model(c)
        s: Any = dry_run.sizes(model)
        gpu, _ = dry_run.memory(c, s, model.config, 900)
        return gpu, dry_run.hours(c, s, model.config, 900, dry_run.updates_of(c))

    def test_counts_the_segmenter_in_the_reward(self) -> None:
        gpu, spent = self.counted("star_lora_7b")
        assert "estimate" in dry_run.SAM
        assert gpu[dry_run.SAM] == pytest.approx(2 * 0.2244 + dry_run.SAM_SCRATCH)
        # 312 updates of 16 images and 256 answers on 8 GPUs, each at half of 39.5 pictures a second.
        assert spent["reward"] == pytest.approx(312 * (16 + 256 * dry_run.SAM_ANSWER) / 8 / (39.5 / 2) / 3600)
        assert "reward" in dry_run.report(load("star_lora_7b")).splitlines()[-1]
        small, _ = self.counted("star_lora_7b", "reward.segmenter=facebook/sam2.1-hiera-tiny")
        assert small[dry_run.SAM] < gpu[dry_run.SAM]

    def test_counts_none_where_no_term_asks_for_masks(self) -> None:
        gpu, spent = self.counted("seg_zero_3b")
        assert dry_run.SAM not in gpu
        assert "reward" not in spent

    def test_counts_it_in_validation_too_and_says_where_it_cannot(self) -> None:
        assert dry_run.SAM in self.counted("star_lora_7b_sft")[0]
        assert dry_run.SAM not in self.counted("star_lora_7b_sft", "data.validation=")[0]
        other = dry_run.report(load("star_lora_7b", ["reward.segmenter=mine"]))
        assert "segmenter   mine is not counted" in other

    def test_supervised_answers_are_short_and_an_estimate(self) -> None:
        report = dry_run.report(load("seg_zero_3b_sft"))
        # 562 updates of 16 rows: image, prompt, and an answer without a thought.
        assert f"some {562 * 16 * (900 + dry_run.PROMPT + dry_run.TAUGHT) / 1e6:,.0f} M tokens (estimate)" in report
        assert dry_run.answer_tokens(load("seg_zero_3b_sft", ["data.thought=true"])) == dry_run.ANSWER
        limit = 562 * 128 * (900 + dry_run.PROMPT + 1300) / 1e6
        assert f"at most {limit:,.0f} M tokens" in dry_run.report(load("seg_zero_3b"))

    def test_says_that_all_answers_of_an_update_at_once_do_not_fit_and_that_parts_do(self) -> None:
        def parts(*more: str) -> dict[str, float]:
            return self.counted("lora_3b_24gb", "rollout=transformers", *more)[0]

        going_in = "their images and prompts, going in (estimate)"
        assert parts()[going_in] == pytest.approx(parts("batch.rollout=0")[going_in] / 8)  # 16 of 128
        small, large = (
            max(dry_run.together(load("lora_3b_24gb", ["rollout=transformers", *m]), parts(*m)).values())
            for m in ((), ("batch.rollout=0",))
        )
        assert small < 24 < large
        _, quick = self.counted("lora_3b_24gb", "rollout=transformers", "batch.rollout=0")
        _, slow = self.counted("lora_3b_24gb", "rollout=transformers")
        assert slow["answers"] > quick["answers"], "every part reads the weights again"

    def test_counts_the_images_that_are_kept_and_validation_apart(self) -> None:
        c, (gpu, _) = load("lora_3b_24gb"), self.counted("lora_3b_24gb")
        image = 900 * 4 * 3 * 2 * 14 * 14 * 4 / dry_run.GB  # patches of two frames, float32
        assert gpu[dry_run.IMAGES] == pytest.approx(128 * image)
        assert sum(dry_run.together(c, gpu).values()) > 2 * (gpu[dry_run.IMAGES] + gpu["weights"])
        assert gpu[dry_run.VALIDATION] > 8 * image  # 8 answers at once: prompts, keys and values too
        phases = dry_run.together(c, gpu)
        assert phases["together (estimate)"] == pytest.approx(sum(gpu.values()) - gpu[dry_run.VALIDATION])
        plain, _ = self.counted("lora_3b_24gb", "data.validation=", "watch.spread_prompts=0")
        assert dry_run.VALIDATION not in plain

    def test_counts_what_fsdp_gathers_reads_and_writes(self) -> None:
        c = load("seg_zero_7b")
        gpu, hours = self.counted("seg_zero_7b")
        whole = dry_run.PARAMETERS["qwen2_5_vl_7b"] / dry_run.GB
        assert gpu["reference gathered, bf16 (estimate)"] == pytest.approx(2 * whole)
        assert "validation" in hours and "validation" not in self.counted("seg_zero_7b", "data.validation=")[1]
        model = dry_run.meta_model(c)
        s: Any = dry_run.sizes(model)
        assert dry_run.memory(c, s, model.config, 900)[1]["while loading"] == pytest.approx(8 * 2 * 4 * whole)
        each, most = dry_run.disk(c, s)
        assert (each, most) == pytest.approx((16 * whole, (c.trl["save_total_limit"] + 2) * 16 * whole))
        report = dry_run.report(c)
        assert f"disk        {each:.1f} GB a checkpoint" in report and "while loading" in report
