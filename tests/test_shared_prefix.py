"""GRPO with the prompt read once per group: TRL's loss and gradients, on the same completions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segzero_ros.checkpoints import EMBEDDED
from training import configuration, grpo

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
        "model.path": str(EMBEDDED / "reasoner"),
        "data.train": str(rows),
        "data.validation": '""',
        "batch.prompts": 3,
        "batch.micro": 12,
        "grpo.num_generations": 4,
        "grpo.max_completion_length": 48,
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


@pytest.mark.parametrize(
    "change",
    [{}, {"grpo.loss_type": "dapo", "grpo.entropy_coef": 0.01}, {"grpo.temperature": 0.7, "batch.micro": 6}],
    ids=["as configured", "another loss, entropy bonus", "temperature, micro-batches"],
)
def test_loss_and_gradients_are_trls(rows: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    ours = trainer(rows, tmp_path / "ours", "shared_prefix", **change)
    stock = trainer(rows, tmp_path / "stock", "stock", **change)
    inputs = batch(ours)
    # So that the reference and the policy differ, and with them the KL.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for a, b in zip(ours.model.parameters(), stock.model.parameters(), strict=True):
            a += 0.002 * torch.randn(a.shape, generator=generator)
            b.copy_(a)
    losses = []
    for one in (ours, stock):
        one.model.train()
        one.current_gradient_accumulation_steps = 1
        loss = one._compute_loss(one.model, inputs)
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    assert ours._metrics["train"]["kl"][-1] == pytest.approx(stock._metrics["train"]["kl"][-1], abs=1e-5)
    for (name, a), b in zip(ours.model.named_parameters(), stock.model.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None, name
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-3, msg=name)


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


def test_a_run_says_where_its_time_goes(rows: Path, tmp_path: Path) -> None:
    one = trainer(rows, tmp_path / "run", "shared_prefix")
    one.train()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for part in ("generation", "reference", "reward", "loss"):
        assert log[0][f"seconds/{part}"] > 0


def test_several_processes_and_vllm_are_refused(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shared_prefix"):
        trainer(rows, tmp_path / "run", "shared_prefix", rollout="vllm-colocate")
