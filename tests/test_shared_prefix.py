"""GRPO with the prompt read once per group: TRL's loss and gradients, on the same completions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.experiments.reproduce import START
from training.finetune import configuration, grpo

pytestmark = pytest.mark.long
PROMPTS = ("the red mug", "something to drink from", "the small cube left of the duck")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import datasets
    from PIL import Image

    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("rows")
    images = [Image.fromarray(rng.integers(0, 256, (224, 224, 3), np.uint8)) for _ in PROMPTS]
    solution = json.dumps([{"bbox_2d": [50, 60, 90, 120], "point_2d": [70, 90]}])
    datasets.Dataset.from_dict(
        {
            "id": list(PROMPTS),
            "problem": list(PROMPTS),
            "solution": [solution] * 3,
            "image": images,
            "img_height": [224] * 3,
            "img_width": [224] * 3,
        }
    ).save_to_disk(str(folder))
    return folder


def trainer(rows: Path, out: Path, engine: str, **change: Any) -> Any:
    settings = {
        "model.path": str(
            START
        ),  # what the experiment trains by this engine; it stays, where the shipped weights change
        "data.train": str(rows),
        "data.validation": '""',
        "batch.prompts": 3,
        "batch.micro": 12,
        "grpo.num_generations": 4,
        "grpo.max_completion_length": 24,
        "trl.max_steps": 1,
        "watch.spread_prompts": 0,
        "engine": engine,
        "out": str(out),
    } | change
    return grpo.build(configuration.load("tabletop_grpo", [f"{k}={v}" for k, v in settings.items()]))


def batch(of: Any) -> dict[str, Any]:
    """What TRL computes its loss from; completions by the engine of the trainer."""
    of.model.train()
    of.current_gradient_accumulation_steps = 1
    rows = [of.train_dataset[n] for n in range(3) for _ in range(4)]
    made: dict[str, Any] = of._generate_and_score_completions(rows)
    made["advantages"] = torch.linspace(-1, 1, 12)  # random answers win nothing, and a flat group teaches nothing
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

    split = split_pixel_values_by_grid(made)
    mixed = {
        k: v[order] if isinstance(v, torch.Tensor) and v.dim() else [v[i] for i in order] if isinstance(v, list) else v
        for k, v in split.items()
    }
    return dict(unsplit_pixel_values_by_grid(mixed))


LORA = {"model.lora": "{rank: 8, alpha: 16}", "trl.learning_rate": 1e-5}


def move(*trainers: Any) -> None:
    """All policies away from the start by the same step, so that the reference differs and with it the KL."""
    for one in trainers:
        generator = torch.Generator().manual_seed(0)
        for name, weights in one.model.named_parameters():
            if weights.requires_grad:
                step = 0.02 if "lora_" in name else 0.002
                weights.data += step * torch.randn(weights.shape, generator=generator)


def loss_of(one: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Its gradients are the model's afterwards."""
    one.model.train()
    one.model.zero_grad()
    one.current_gradient_accumulation_steps = 1
    loss: torch.Tensor = one._compute_loss(one.model, inputs)
    loss.backward()
    return loss.detach()


def farthest(ours: Any, stock: Any) -> tuple[float, str]:
    """Of all trained tensors the gradient that differs most, relative to the largest of its absolute values."""
    found = []
    for (name, a), b in zip(ours.model.named_parameters(), stock.model.parameters(), strict=True):
        assert (a.grad is not None, b.grad is not None) == (a.requires_grad,) * 2, name
        if a.grad is not None and b.grad is not None:
            found.append((float((a.grad - b.grad).abs().max() / b.grad.abs().max()), name))
    return max(found)


def double(monkeypatch: pytest.MonkeyPatch, inputs: dict[str, Any], *trainers: Any) -> dict[str, Any]:
    """Weights and inputs in float64, and what the library does in float32 whatever it is given: norms, and the vision
    tower's rotary embedding."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as library

    def norm(self: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.variance_epsilon)

    def turned(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        cos, sin = cos[:, None], sin[:, None]
        return tuple(x * cos + library.rotate_half(x) * sin for x in (q, k))

    monkeypatch.setattr(library.Qwen2_5_VLRMSNorm, "forward", norm)
    monkeypatch.setattr(library, "apply_rotary_pos_emb_vision", turned)
    for one in trainers:
        one.model.double()
    return {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in inputs.items()}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"grpo.loss_type": "dapo", "grpo.entropy_coef": 0.01, "grpo.temperature": 0.7, "batch.micro": 6},
        LORA | {"grpo.beta": 0.1},
    ],
    ids=["as configured", "another loss, entropy bonus, temperature, micro-batches", "LoRA"],
)
def test_loss_and_gradients_are_trls(
    rows: Path, tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-5, gradients relative to the largest absolute value of their tensor.

    In float64, for in float32 TRL's own gradients are up to 1e-4 from its own in float64: sums of other orders differ
    by more than what is claimed. There the loss still agrees to 1e-5, and gradients as far as float32 can tell.
    """
    ours = trainer(rows, tmp_path / "ours", "shared_prefix", **change)
    stock = trainer(rows, tmp_path / "stock", "stock", **change)
    inputs = batch(ours)
    move(ours, stock)
    loss, wanted = (loss_of(one, inputs) for one in (ours, stock))
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    assert ours._metrics["train"]["kl"][-1] == pytest.approx(stock._metrics["train"]["kl"][-1], abs=1e-5)
    assert stock._metrics["train"]["kl"][-1] > 1e-4
    assert farthest(ours, stock)[0] < 2e-4

    inputs = double(monkeypatch, inputs, ours, stock)
    loss, wanted = (loss_of(one, inputs) for one in (ours, stock))
    torch.testing.assert_close(loss, wanted, atol=1e-7, rtol=1e-5)
    assert farthest(ours, stock)[0] < 1e-5


def log_probs(of: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        found, _, _ = of._get_per_token_logps_and_entropies(
            of.model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            inputs["completion_ids"].shape[1],
            **{k: inputs[k] for k in ("pixel_values", "image_grid_thw", "mm_token_type_ids", "num_images")},
        )
    return found[inputs["completion_mask"].bool()].float()


@pytest.mark.parametrize(
    "change", [{"trl.bf16": "true"}, LORA | {"model.dtype": "bfloat16"}], ids=["autocast", "base below LoRA"]
)
def test_in_bfloat16_log_probs_are_trls_as_far_as_it_can_tell(
    rows: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """The engines differ by what bfloat16 differs from float32; under autocast by about twice that, since here the
    rotary embedding is in bfloat16 too, and the library's is not."""
    ours, stock, exact = (
        trainer(rows, tmp_path / name, engine, **more)
        for name, engine, more in (
            ("ours", "shared_prefix", change),
            ("stock", "stock", change),
            ("exact", "stock", change | {"trl.bf16": "false", "model.dtype": "float32"}),
        )
    )
    inputs = batch(ours)
    found, wanted, right = (log_probs(one, inputs) for one in (ours, stock, exact))
    rounding = float((wanted - right).abs().mean())
    assert 1e-4 < rounding < 0.2
    assert float((found - wanted).abs().mean()) < 3 * rounding
    assert float((found - right).abs().mean()) < 3 * rounding


def test_the_references_log_probs_are_trls(rows: Path, tmp_path: Path) -> None:
    ours = trainer(rows, tmp_path / "ours", "shared_prefix")
    stock = trainer(rows, tmp_path / "stock", "stock")
    inputs = batch(ours)
    length = inputs["completion_ids"].shape[1]
    with torch.no_grad():
        wanted, _, _ = stock._get_per_token_logps_and_entropies(
            stock.ref_model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            length,
            **{k: inputs[k] for k in ("pixel_values", "image_grid_thw", "mm_token_type_ids", "num_images")},
        )
    mask = inputs["completion_mask"].bool()
    # Of a rare token's logarithm the last digits of float32 are another order of adding up.
    torch.testing.assert_close(inputs["ref_per_token_logps"][mask], wanted[mask], atol=1e-4, rtol=1e-4)


def test_several_processes_and_vllm_are_refused(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shared_prefix"):
        trainer(rows, tmp_path / "run", "shared_prefix", rollout="vllm-colocate")
