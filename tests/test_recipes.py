"""What a recipe refuses before it starts, what it mends for vLLM, and that weights count in what is shown."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.quantizers.quantizers_utils import should_convert_module
from trl import GRPOTrainer

from training.finetune import configuration, dry_run, grpo, logs, sft
from training.finetune import model as models
from training.finetune import run as train
from training.finetune.configuration import ConfigurationError, Reward, load
from training.finetune.conversations import load as load_rows
from training.finetune.shrink import make_rows, shrunk
from training.rewards import PROFILES, Profile

IMAGE = 9


class TestImageTokensForVllm:
    def generate(self, prompts: list[list[int]]) -> list[list[int]]:
        """What vLLM is handed."""
        seen: dict[str, Any] = {}

        def engine(prompts: Any, *args: Any, **more: Any) -> str:
            seen.update(prompts=prompts, args=args, more=more)
            return "what vLLM said"

        trainer = SimpleNamespace(
            vllm_generation=SimpleNamespace(generate=engine), processing_class=SimpleNamespace(image_token_id=IMAGE)
        )
        grpo.one_token_per_image(trainer)
        images = [object() for _ in prompts]
        # As TRL calls it: by name.
        said = trainer.vllm_generation.generate(prompts=prompts, images=images, num_generations=4, profiler=None)
        assert said == "what vLLM said"
        assert seen["args"] == ()
        assert seen["more"] == {"images": images, "num_generations": 4, "profiler": None}
        found: list[list[int]] = seen["prompts"]
        return found

    def test_the_run_of_an_image_becomes_one_token_and_several_images_keep_one_each(self) -> None:
        one, two = [1, *[IMAGE] * 196, 2, 3, 3], [1, *[IMAGE] * 4, 2, 1, *[IMAGE] * 900, 2, 5]
        before = [list(one), list(two)]
        assert self.generate([one, two, [4, 4], []]) == [[1, IMAGE, 2, 3, 3], [1, IMAGE, 2, 1, IMAGE, 2, 5], [4, 4], []]
        assert [one, two] == before, "TRL goes on with the ids that it has"

    @given(st.lists(st.lists(st.integers(0, IMAGE), max_size=30), max_size=4))
    def test_everything_else_stays(self, prompts: list[list[int]]) -> None:
        found = self.generate(prompts)
        assert [[t for t in row if t != IMAGE] for row in found] == [[t for t in row if t != IMAGE] for row in prompts]
        texts = ["".join(map(str, row)) for row in prompts]
        assert ["".join(map(str, row)) for row in found] == [re.sub("9+", "9", text) for text in texts]


@pytest.mark.parametrize("rollout", ["vllm-colocate", "vllm-server"])
def test_vllm_that_is_not_installed_is_told_before_anything_is_loaded(
    rollout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loads(*_: Any) -> Any:
        raise AssertionError("something is loaded")

    monkeypatch.setattr(grpo, "find_spec", lambda name: None)
    monkeypatch.setattr(grpo, "arguments", loads)
    monkeypatch.setattr(grpo, "parts", loads)
    call = ["seg_zero_3b", "--out", str(tmp_path), "--set", f"rollout={rollout}"]
    assert train.main(call) == 2
    said = capsys.readouterr().err
    assert f"seg_zero_3b: rollout {rollout} needs vLLM" in said
    assert "requirements/vllm.txt" in said
    assert "--set rollout=transformers" in said
    assert (configuration.FOLDER.parents[1] / "requirements" / "vllm.txt").is_file()
    assert not (tmp_path / "configuration.yaml").exists()  # the same folder takes the mended call


class TestWhatIsTaught:
    def rows(self, folder: Path, completion: str = "") -> Any:
        import datasets

        c = load("tabletop_sft")
        make_rows(c, folder / "rows", 56)
        found = datasets.load_from_disk(str(folder / "rows"))
        if completion:
            found = found.add_column("completion", [completion] * len(found))
        found.save_to_disk(str(folder / "made"))
        return load_rows(replace(c.data, square=56), "sft", str(folder / "made"))

    def test_must_be_paid_by_the_reward_that_chooses_the_checkpoint(self, tmp_path: Path) -> None:
        c = load("tabletop_sft", ["data.square=56"])
        sft.check_taught(c, self.rows(tmp_path / "right"))
        wrong = self.rows(tmp_path / "wrong", "It is over there.")
        with pytest.raises(ConfigurationError, match=r"segzero-answer, .* row made-up-0: 'It is over there\.'"):
            sft.check_taught(c, wrong)
        sft.check_taught(replace(c, data=replace(c.data, validation="")), wrong)  # nothing is chosen by it

    def test_weights_count(self, tmp_path: Path) -> None:
        c = load("tabletop_sft", ["data.square=56"])
        nothing = Reward("segzero-answer", dict.fromkeys(PROFILES["segzero-answer"].terms, 0.0))
        with pytest.raises(ConfigurationError, match="pays nothing"):
            sft.check_taught(replace(c, reward=nothing), self.rows(tmp_path))


@pytest.mark.long
def test_weights_count_in_what_is_shown_before_and_during_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def length(texts: Any, solutions: Any, **_: Any) -> list[float]:
        return [float(len(t)) for t in texts]

    def one(texts: Any, solutions: Any, **_: Any) -> list[float]:
        return [1.0] * len(texts)

    terms = {"length": length, "one": one}
    monkeypatch.setitem(PROFILES, "two", Profile("two", "a test", 99.0, terms, {"length": 0.5, "one": 7.0}))
    c, _ = shrunk(load("tabletop_grpo", ["pictures=false", "watch.format_term=", "watch.spread_prompts=1"]), tmp_path)
    c = replace(c, reward=Reward("two", {"one": 3.0}))  # over the profile's own
    assert train.run(c) == 0
    out = Path(c.out)
    samples = logs.read_jsonl(out / "samples.jsonl")
    assert {s["kind"] for s in samples} == {"training", "validation"}
    for sample in samples:
        assert sample["reward"] == [0.5 * n + 3.0 * i for n, i in zip(*sample["rewards"].values(), strict=True)]
        assert sample["rewards"] == {"length": [len(t) for t in sample["texts"]], "one": [1.0] * len(sample["texts"])}
    assert f"<small>{samples[-1]['reward'][0]:g}: length" in (out / "samples.html").read_text()
    rows = [line.split() for line in (out / "spread.txt").read_text().splitlines()[2:]]
    means = {row[0]: float(row[1]) for row in rows}
    assert means["one"] == 1.0
    assert means["length"] > 0
    assert means["sum"] == pytest.approx(0.5 * means["length"] + 3.0, abs=2e-3)
    logged = [r for r in logs.read_jsonl(out / "log.jsonl") if "loss" in r]
    for record in logged:
        assert record["reward"] == pytest.approx(0.5 * record["rewards/length/mean"] + 3.0, abs=1e-5)


class TestFourBits:
    """As far as it goes without CUDA: bitsandbytes packs weights into bytes, which have no gradient."""

    def test_packed_weights_are_left_alone(self) -> None:
        model: Any = torch.nn.Module()
        model.model = torch.nn.Module()
        model.model.visual = torch.nn.Linear(2, 2)
        model.packed = torch.nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)
        models.freeze(model, ())
        assert not model.packed.requires_grad and model.model.visual.weight.requires_grad
        with pytest.raises(ConfigurationError, match="nothing is left"):
            models.freeze(model, ("vision",))

    @pytest.mark.parametrize("name", ["qlora_24gb", "qlora_24gb_sft"])
    def test_the_language_models_layers_are_packed_and_the_vision_tower_is_not(self, name: str) -> None:
        c = load(name)
        skipped = models.quantisation(c.model).llm_int8_skip_modules
        named = dry_run.meta_model(replace(c, model=replace(c.model, lora=None))).named_modules()
        linear = [n for n, m in named if isinstance(m, torch.nn.Linear)]
        packed = {n for n in linear if should_convert_module(n, skipped)}
        assert packed == {n for n in linear if "language_model" in n}
        assert {n for n in linear if "visual" in n} and len(packed) == 7 * 28


class TestAnswersInParts:
    class Engine:
        """What TRL's trainer is asked."""

        use_vllm = False

        def __init__(self) -> None:
            self.asked: list[dict[str, Any]] = []

        def _generate_single_turn(self, ids: Any, images: Any, fields: Any, num_generations: int) -> Any:
            assert num_generations == 2
            self.asked.append({"ids": ids, "images": images, **{k: list(v) for k, v in fields.items()}})
            return [[i[0] * 10] for i in ids], None

    def asked(self, at_once: int) -> tuple[list[list[int]], list[dict[str, Any]]]:
        class Trainer(grpo.InParts, self.Engine):  # type: ignore[misc, name-defined]
            samples_at_once = at_once

        trainer = Trainer()
        fields = {
            "pixel_values": torch.tensor([1, 2, 2, 3, 3, 3, 4, 4]),
            "image_grid_thw": torch.tensor([[1, 1, 1], [1, 2, 1], [1, 1, 3], [1, 1, 2]]),
            "mm_token_type_ids": [[0], [1], [2], [3]],
        }
        answers, _ = trainer._generate_single_turn([[1], [2], [3], [4]], ["a", "b", "c", "d"], fields, 2)
        return answers, trainer.asked

    @pytest.mark.parametrize("at_once", [1, 2, 3])
    def test_each_part_has_its_own_rows_images_and_pixels_and_none_is_lost(self, at_once: int) -> None:
        answers, asked = self.asked(at_once)
        assert answers == [[10], [20], [30], [40]]
        assert [len(a["ids"]) for a in asked] == [at_once] * (4 // at_once) + [4 % at_once] * bool(4 % at_once)
        for part in asked:
            numbers = [i[0] for i in part["ids"]]
            assert part["images"] == ["abcd"[n - 1] for n in numbers]
            assert part["pixel_values"] == [n for n in numbers for _ in range({1: 1, 2: 2, 3: 3, 4: 2}[n])]
            assert part["mm_token_type_ids"] == [[n - 1] for n in numbers]

    @pytest.mark.parametrize("at_once", [0, 4, 9])
    def test_without_a_limit_or_with_a_wide_one_it_is_one_call(self, at_once: int) -> None:
        assert len(self.asked(at_once)[1]) == 1

    def test_the_shared_prefix_has_no_parts(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="engine: stock"):
            grpo.build(load("tabletop_grpo", ["batch.rollout=8", "engine=shared_prefix"]))


class TestBestAndWorst:
    @given(
        st.integers(1, 5).flatmap(
            lambda half: st.lists(
                st.lists(st.integers(0, 4), min_size=4 * half, max_size=4 * half), min_size=1, max_size=3
            ).map(lambda won: (2 * half, won))
        )
    )
    def test_half_of_them_are_the_best_and_half_the_worst_and_none_is_taken_twice(self, drawn: Any) -> None:
        keep, won = drawn[0], torch.tensor(drawn[1], dtype=torch.float)
        advantages, rows = grpo.best_and_worst(won, keep, scaled=True)
        n = won.shape[1]
        assert len(set(rows.tolist())) == len(won) * keep, "none twice, even where all won alike"
        for group, chosen in enumerate(rows.view(-1, keep)):
            assert all(group * n <= row < (group + 1) * n for row in chosen)
            got = won.flatten()[chosen].sort().values
            ordered = won[group].sort().values
            assert torch.equal(got, torch.cat([ordered[: keep // 2], ordered[n - keep // 2 :]]))
            expected = (won.flatten()[chosen] - got.mean()) / (got.std() + 1e-4)
            assert torch.allclose(advantages.view(-1, keep)[group], expected)

    def test_advantages_are_not_scaled_where_trl_is_told_not_to(self) -> None:
        advantages, rows = grpo.best_and_worst(torch.tensor([[1.0, 5.0, 2.0, 3.0]]), 2, scaled=False)
        assert advantages.tolist() == [2.0, -2.0] and rows.tolist() == [1, 0]

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            (["batch.keep=3"], "even number that divides num_generations 8"),
            (["batch.keep=6"], "even number that divides num_generations 8"),
            (["batch.keep=4", "engine=shared_prefix"], "batch.keep is for `engine: stock`"),
            (["batch.keep=4", "grpo.scale_rewards=batch"], "batch.keep knows no other scale_rewards"),
        ],
    )
    def test_what_it_cannot_is_refused(self, settings: list[str], said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            load("tabletop_grpo", ["engine=stock", *settings])

    @pytest.mark.parametrize(("process", "own", "signs"), [(0, [2, 1], [1, -1]), (1, [0, 3], [1, -1])])
    def test_every_process_chooses_among_its_own_rows(self, process: int, own: list[int], signs: list[int]) -> None:
        class Trl:
            """Rewards of all processes, answers of this one."""

            def _calculate_rewards(self) -> torch.Tensor:
                return torch.tensor([[1.0, 5.0], [0.0, 5.0], [3.0, 5.0], [1.0, 5.0], [9.0, 0], [4, 0], [5, 0], [2, 0]])

            def _generate_and_score_completions(self, inputs: list[int]) -> dict[str, Any]:
                self._calculate_rewards()
                rows = torch.tensor(inputs)
                return {
                    "completion_ids": rows,
                    "completion_mask": rows > 0,
                    "advantages": torch.zeros(4),
                    "text": inputs,
                }

        class Trainer(grpo.BestAndWorst, Trl):  # type: ignore[misc]
            keep, num_generations, scale_rewards = 2, 4, "none"
            reward_weights = torch.tensor([1.0, 0.0])
            model = SimpleNamespace(training=True)
            accelerator = SimpleNamespace(process_index=process, gather=lambda x: x[None])

        found = Trainer()._generate_and_score_completions([10, 11, 12, 13])
        assert found["text"] == found["completion_ids"].tolist() == [10 + n for n in own]
        assert found["advantages"].sign().tolist() == signs and int(found["num_items_in_batch"]) == 2

    def test_supervised_training_keeps_its_one_answer(self) -> None:
        c = load("star_lora_7b_sft", ["batch.keep=16"])
        assert (c.kept, c.learnt, c.accumulation(8)) == (1, 16, 1)

    def test_a_prompts_answers_are_on_one_gpu(self) -> None:
        c = load("star_stage_2")
        assert c.accumulation(8) == 16  # 2 prompts of 16 answers, two at a time
        with pytest.raises(ConfigurationError, match="16 prompts do not divide into 32 processes"):
            c.accumulation(32)

    @pytest.mark.long
    def test_an_update_learns_from_the_kept_ones_alone_and_each_keeps_what_is_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Answers are scored by their place in the group, so that it is known which are kept."""
        worth = [0.0, 3.0, 1.0, 2.0] * 2

        def place(texts: Any, solutions: Any, **_: Any) -> list[float]:
            return worth[: len(texts)]

        monkeypatch.setitem(PROFILES, "place", Profile("place", "a test", 3.0, {"place": place}))
        settings = [
            "engine=stock",
            "pictures=false",
            "watch.spread_prompts=0",
            "watch.format_term=",
            "data.validation=",
        ]
        c, _ = shrunk(load("tabletop_grpo", settings), tmp_path)
        c = replace(
            c,
            data=replace(c.data, validation=""),
            reward=Reward("place"),
            batch=replace(c.batch, keep=2),
            grpo={**c.grpo, "num_generations": 4},
            trl={**c.trl, "max_steps": 1},
        )
        trainer = grpo.build(c)
        score, seen, losses = trainer._generate_and_score_completions, [], []
        of_trl, of_loss = GRPOTrainer._generate_and_score_completions, trainer._compute_loss

        def all_rows(self: Any, inputs: Any) -> Any:
            found = of_trl(self, inputs)
            seen.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in found.items()})
            return found

        def scored(inputs: Any) -> Any:
            found = score(inputs)
            seen.append(found)
            return found

        def loss(model: Any, inputs: Any) -> Any:
            losses.append(len(inputs["completion_ids"]))
            return of_loss(model, inputs)

        monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", all_rows)
        trainer._generate_and_score_completions, trainer._compute_loss = scored, loss
        trainer.train()
        whole, found = seen
        assert len(whole["completion_ids"]) == 8 and len(found["completion_ids"]) == 4 and losses == [2, 2]
        own = [1, 0, 5, 4]  # of each group the answer that won 3 and the one that won 0
        for key in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "ref_per_token_logps"):
            assert torch.equal(found[key], whole[key][own]), key
        patches = whole["image_grid_thw"].prod(-1).tolist()
        pixels = whole["pixel_values"].split(patches)
        assert torch.equal(found["pixel_values"], torch.cat([pixels[n] for n in own]))
        assert torch.equal(found["image_grid_thw"], whole["image_grid_thw"][own])
        scale = (9 / 2) ** 0.5 + 1e-4  # of 3 and 0, around 1.5
        assert found["advantages"].tolist() == pytest.approx([1.5 / scale, -1.5 / scale] * 2)
        assert int(found["num_items_in_batch"]) == int(found["completion_mask"].sum())
        assert len(found["image_grid_thw"]) == len(found["num_images"]) == 4
