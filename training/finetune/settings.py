"""What a run is: the sections of a configuration, each a frozen dataclass, and the numbers that follow from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from segzero_ros.rehearse import ARCHITECTURES as ALL_ARCHITECTURES

ARCHITECTURES = ALL_ARCHITECTURES / "reasoners"
_STRICT = ConfigDict(extra="forbid")


class ConfigurationError(ValueError):
    """A configuration that is not there or not right; the message names file and key."""


@dataclass(frozen=True, config=_STRICT)
class Lora:
    """Low-rank adapters on every linear layer of the language model; the vision tower has none (StAR)."""

    rank: int = Field(default=64, ge=1)
    alpha: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


@dataclass(frozen=True, config=_STRICT)
class Model:
    """path: a folder, a hub name, or "embedded". architecture: a file of segzero_ros/rehearse/architectures/reasoners,
    for --dry-run and --shrink. dtype: of the weights in memory; computation is bf16 where `trl.bf16` says so. freeze:
    parts that are not trained. quantise: of the frozen base below LoRA, by bitsandbytes, CUDA only."""

    path: str
    architecture: str
    revision: str | None = None
    licence: str = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    freeze: tuple[Literal["vision", "projector", "language"], ...] = ()
    lora: Lora | None = None
    quantise: Literal["none", "nf4"] = "none"


@dataclass(frozen=True, config=_STRICT)
class Data:
    """train, validation: folders that datasets.load_from_disk reads, or "" for no validation. square: pixels of the
    model's image; rows of another square are scaled. coordinates: what the model reads and writes. prompt: a
    template of segzero_ros.core.prompt, or the words themselves with {question}. newline_after_image: as VisionReasoner
    trains. answer: the form of the solutions, of which the supervised texts are made. thought: supervised texts begin
    with the column `thought`. rows, validation_rows: the first so many only; 0 = all."""

    train: str
    validation: str = ""
    square: int = Field(default=840, ge=28)
    coordinates: Literal["pixels", "thousandths"] = "pixels"
    prompt: str = "seg-zero"
    system: str | None = "You are a helpful assistant."
    newline_after_image: bool = False
    answer: Literal["single", "list"] = "single"
    thought: bool = False
    rows: int = Field(default=0, ge=0)
    validation_rows: int = Field(default=0, ge=0)

    @property
    def extent(self) -> int:
        """The largest coordinate: pixels of the square, or 1000."""
        return self.square if self.coordinates == "pixels" else 1000


@dataclass(frozen=True, config=_STRICT)
class Reward:
    """profile: of training.rewards. weights: of its terms, 1 where none is given; 0 counts nothing and is logged.
    segmenter: for profiles with masks: a folder, a hub name or "embedded"."""

    profile: str
    weights: dict[str, float] = Field(default_factory=dict)
    segmenter: str | None = None


@dataclass(frozen=True, config=_STRICT)
class Batch:
    """prompts: per update, over all GPUs. micro: sequences that go forward and backward at once on one GPU.
    evaluation: sequences that answer at once in validation (recorded: padding changes answers a little). rollout:
    sequences that one GPU answers at once where transformers answers; 0: all of an update, as TRL does. keep: answers
    of a prompt that are learnt from, the best and the worst, half of each (StAR); 0: all."""

    prompts: int = Field(default=16, ge=1)
    micro: int = Field(default=1, ge=1)
    evaluation: int = Field(default=8, ge=1)
    rollout: int = Field(default=0, ge=0)
    keep: int = Field(default=0, ge=0)


@dataclass(frozen=True, config=_STRICT)
class Hardware:
    """What the file is written for; the update is the same on any other number of GPUs. sharding: an accelerate file of
    training/configs/accelerate, or "none". tflops, bandwidth: bf16 peak and GB/s of one GPU, for --dry-run's estimates.
    hours: estimate."""

    gpus: int = Field(default=8, ge=0)
    memory: float = Field(default=80.0, gt=0)  # GB of one GPU (or of the host)
    sharding: Literal["none", "ddp", "fsdp", "fsdp_offload", "zero3", "zero3_offload"] = "none"
    tflops: float = Field(default=312.0, gt=0)  # A100
    bandwidth: float = Field(default=1555.0, gt=0)
    hours: float | None = None


@dataclass(frozen=True, config=_STRICT)
class Watch:
    """When a run is stopped: a limit held in `patience` logs one after the other. None: not watched."""

    patience: int = Field(default=10, ge=1)
    zero_spread: float | None = Field(default=0.95, ge=0, le=1)  # share of groups whose answers all won alike
    kl: float | None = Field(default=10.0, ge=0)  # nats per token
    truncated: float | None = Field(default=0.9, ge=0, le=1)  # share of answers cut off
    length: float | None = Field(default=None, ge=0)  # mean tokens of an answer, at least
    format_term: str = ""  # term whose mean must not stay below format_rate
    format_rate: float | None = None
    spread_prompts: int = Field(default=16, ge=0)  # prompts sampled before the run; 0 = none


@dataclass(frozen=True, config=_STRICT)
class Configuration:
    """One run. answers: which table or figure of which paper it is for."""

    name: str
    answers: str
    method: Literal["grpo", "sft"]
    model: Model
    data: Data
    reward: Reward  # of training (GRPO) and of validation (both)
    batch: Batch = Batch()
    hardware: Hardware = Hardware()
    watch: Watch = Watch()
    engine: Literal["stock", "shared_prefix"] = "stock"
    rollout: Literal["transformers", "vllm-colocate", "vllm-server"] = "transformers"
    out: str = ""
    seed: int = Field(default=42, ge=0, lt=2**32)
    save_every: int = Field(default=50, ge=1)  # updates; validated, then saved
    samples_every: int = Field(default=10, ge=1)  # updates; answers kept for the page
    pictures: bool = True  # curves.png
    wandb: bool = False
    trl: dict[str, Any] = Field(default_factory=dict)
    grpo: dict[str, Any] = Field(default_factory=dict)
    sft: dict[str, Any] = Field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """What TRL's configuration of this method is given as it is."""
        return {**self.trl, **(self.grpo if self.method == "grpo" else self.sft)}

    @property
    def generations(self) -> int:
        """Answers per prompt and update: of GRPO n, of supervised training 1."""
        return int(self.grpo.get("num_generations", 8)) if self.method == "grpo" else 1

    @property
    def samples(self) -> int:
        """Sequences per update."""
        return self.batch.prompts * self.generations

    @property
    def kept(self) -> int:
        """Answers per prompt that are learnt from."""
        return (self.method == "grpo" and self.batch.keep) or self.generations

    @property
    def learnt(self) -> int:
        """Sequences per update that go forward and backward."""
        return self.batch.prompts * self.kept

    @property
    def completion(self) -> int:
        """Tokens of an answer, at most; in supervised training, of an answer in validation."""
        return int(self.grpo.get("max_completion_length", 512))

    def updates(self, rows: int) -> int:
        """Of the whole run over so many rows."""
        steps = int(self.arguments.get("max_steps", -1))
        return (
            steps if steps > 0 else int(rows // self.batch.prompts * float(self.arguments.get("num_train_epochs", 3)))
        )

    def accumulation(self, processes: int) -> int:
        """Micro-batches of one process per update. Raises ConfigurationError where they do not come out even."""
        each = self.batch.micro * max(1, processes)
        if self.learnt % each:
            raise ConfigurationError(
                f"{self.name}: {self.learnt} sequences per update do not divide into {processes} processes x micro "
                f"{self.batch.micro}"
            )
        if self.kept < self.generations and self.batch.prompts % max(1, processes):
            raise ConfigurationError(
                f"{self.name}: batch.keep chooses among all answers of a prompt, and {self.batch.prompts} prompts do "
                f"not divide into {processes} processes"
            )
        return self.learnt // each


def architecture_file(name: str) -> Path:
    return ARCHITECTURES / f"{name}.json"


def processes() -> int:
    """As torchrun and accelerate say it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def main_process() -> bool:
    """Whether this one writes and shows things."""
    return int(os.environ.get("RANK", "0")) == 0
