"""Where an update's time goes: generation, reference, reward and loss apart, whatever the engine and the weights."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.finetune import logs
from training.finetune import run as train
from training.finetune.configuration import Lora, load
from training.finetune.grpo import PARTS, Timed
from training.finetune.shrink import shrunk


class Engine:
    """What TRL's trainer does in a micro-batch, each part taking its own time of a clock that it moves by itself."""

    def __init__(self, reference: Any) -> None:
        self.clock, self.ref_model, self.model = 0.0, reference, torch.nn.Linear(1, 1)
        self.accelerator = SimpleNamespace(device=torch.device("cpu"))
        self._metrics: dict[str, Any] = {"train": defaultdict(list)}
        self._step, self.current_gradient_accumulation_steps = 0, 2

    def _generate_single_turn(self) -> None:
        self.clock += 1

    def _get_per_token_logps_and_entropies(self, model: Any) -> None:
        self.clock += 10

    def _calculate_rewards(self) -> None:
        self.clock += 100

    def _prepare_inputs(self, inputs: Any) -> Any:
        if self._step % 2 == 0:  # once for all micro-batches
            self.clock += 1000  # images and prompts
            self._generate_single_turn()
            with torch.no_grad():
                self._get_per_token_logps_and_entropies(self.model)  # the policy's earlier ones
                self._get_per_token_logps_and_entropies(self.ref_model)
            self._calculate_rewards()
        return inputs

    def training_step(self, inputs: Any) -> float:
        self._prepare_inputs(inputs)
        self._get_per_token_logps_and_entropies(self.model)
        self.clock += 10_000  # backward
        self._step += 1
        return 0.5


class Clocked(Timed, Engine):
    def _now(self) -> float:
        return self.clock


def test_parts_are_booked_by_what_they_are_for() -> None:
    trainer = Clocked(torch.nn.Linear(1, 1))
    assert trainer.training_step({}) == 0.5
    assert not trainer._metrics["train"], "not before the update is whole"
    for _ in range(3):
        trainer.training_step({})
    wanted = {"generation": 1, "reference": 10, "reward": 100, "loss": 10 + 2 * 10_010}
    assert trainer._metrics["train"] == {f"seconds/{part}": [wanted[part]] * 2 for part in PARTS}


@pytest.mark.long
@pytest.mark.parametrize("lora", [None, Lora(rank=2, alpha=2)], ids=["whole", "lora"])
@pytest.mark.parametrize("engine", ["stock", "shared_prefix"])
def test_every_engine_logs_all_four_with_and_without_adapters(engine: str, lora: Lora | None, tmp_path: Path) -> None:
    c, _ = shrunk(load("tabletop_grpo", ["pictures=false", "watch.spread_prompts=0", f"engine={engine}"]), tmp_path)
    c = replace(c, model=replace(c.model, lora=lora), data=replace(c.data, validation=""))
    assert train.run(c) == 0
    updates = [r for r in logs.read_jsonl(Path(c.out) / "log.jsonl") if "loss" in r]
    assert [r["step"] for r in updates] == [1, 2]
    for record in updates:
        assert all(record[f"seconds/{part}"] > 0 for part in PARTS)
        assert record["kl"] == pytest.approx(0, abs=1e-3), "the reference is the start model"
