"""A run's configuration: one YAML file, checked before anything is loaded.

What belongs to TRL stands in the sections `trl` (both methods), `grpo` and `sft` under TRL's own names and reaches
GRPOConfig or SFTConfig as it is; all else is a field here. `base:` names a file to start from, mappings being merged
key by key, so that a supervised twin differs from its recipe in a few lines.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from segzero_ros.core.prompt import TEMPLATES
from segzero_ros.rehearse import ARCHITECTURES as ALL_ARCHITECTURES
from training.rewards import PROFILES

FOLDER = Path(__file__).parents[1] / "configs"
ARCHITECTURES = ALL_ARCHITECTURES / "reasoners"
_STRICT = ConfigDict(extra="forbid")

# What the recipes derive from the fields below; twice said is twice wrong.
DERIVED = frozenset(
    {
        "output_dir",
        "run_name",
        "seed",
        "data_seed",
        "use_vllm",
        "vllm_mode",
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "generation_batch_size",
        "steps_per_generation",
        "reward_weights",
        "report_to",
        "remove_unused_columns",
        "eval_strategy",
        "eval_steps",
        "save_strategy",
        "save_steps",
        "metric_for_best_model",
        "greater_is_better",
        "load_best_model_at_end",
        "save_only_model",
        "model_init_kwargs",
        "push_to_hub",
        "trust_remote_code",
    }
)

# Those of TRL's that are read here too, or that it would trip over late.
# Of TRL's settings: the kind of number, and what it may be. TRL would refuse most of them only in training.
_NUMBERS: dict[str, tuple[type, float, float]] = {
    "num_generations": (int, 0, math.inf),
    "max_completion_length": (int, 1, math.inf),
    "max_steps": (int, -1, math.inf),
    "num_train_epochs": (float, -1, math.inf),
    "learning_rate": (float, 0, math.inf),
    "weight_decay": (float, 0, math.inf),
    "max_grad_norm": (float, 0, math.inf),
    "beta": (float, 0, math.inf),
    "epsilon": (float, 0, math.inf),
    "temperature": (float, 1e-6, math.inf),
    "top_p": (float, 1e-6, 1),
    "logging_steps": (float, 1e-6, math.inf),
}

# What batch.keep takes advantages by; the first one is TRL's default.
_KEEP = {"scale_rewards": ("group", "none", True, False), "multi_objective_aggregation": ("sum_then_normalize",)}

_LOSSES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "luspo", "sapo", "vespo")  # which TRL looks at in training only
_SWITCHES = ("bf16", "fp16", "gradient_checkpointing", "use_cpu")


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
    zero_spread: float | None = 0.95  # share of groups whose answers all won alike
    kl: float | None = 10.0  # nats per token
    truncated: float | None = 0.9  # share of answers cut off
    length: float | None = None  # mean tokens of an answer, at least
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
    seed: int = Field(default=42, ge=0)
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


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: PyYAML reads 1e-6 as a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf)$|^\.(nan|NaN)$"),
    list("-+0123456789."),
)
# First come, first served: whole numbers stay whole.
for _first in _Loader.yaml_implicit_resolvers:
    _Loader.yaml_implicit_resolvers[_first] = sorted(
        _Loader.yaml_implicit_resolvers[_first], key=lambda pair: pair[0] != "tag:yaml.org,2002:int"
    )


def find(name: str) -> Path:
    """A file by its path, or by its name below training/configs. Raises ConfigurationError."""
    for path in (Path(name), FOLDER / f"{name}.yaml", FOLDER / "ablations" / f"{name}.yaml"):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path
    raise ConfigurationError(f"there is no configuration {name!r}; known: {', '.join(p.stem for p in every())}")


def every() -> list[Path]:
    """The configurations that come with the package, ablations last."""
    return [*sorted(FOLDER.glob("*.yaml")), *sorted((FOLDER / "ablations").glob("*.yaml"))]


def read(path: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """The file's mapping, over that of its base. Raises ConfigurationError."""
    path = path.resolve()
    if path in above:
        raise ConfigurationError(f"{path.name}: base leads back to itself")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(f"{above[-1].name if above else path.name}: there is no {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path.name} is not readable: {error}") from error
    try:
        data = yaml.load(text, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise ConfigurationError(f"{path.name} is not readable YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigurationError(f"{path.name}: expected a mapping of settings")
    base = data.pop("base", None)
    if base is None:
        return data
    return merged(read(path.parent / str(base), (*above, path)), data)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings key by key, all else replaced."""
    found = copy.deepcopy(below)
    for key, value in above.items():
        mine = found.get(key)
        found[key] = merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return found


def load(name: str, settings: Sequence[str] = ()) -> Configuration:
    """A configuration by path or name, with settings as "model.path=folder". Raises ConfigurationError."""
    path = find(name)
    data = {"name": path.stem, **read(path)}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key.strip():
            raise ConfigurationError(f"--set {setting}: expected key=value")
        place = data
        *sections, last = key.strip().split(".")
        for section in sections:
            if place.get(section) is None:
                place[section] = {}
            place = place[section]
            if not isinstance(place, dict):
                raise ConfigurationError(f"--set {setting}: {section} is no section")
        try:
            place[last] = yaml.load(value, _Loader) if value.strip() else ""  # a SafeLoader
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"--set {setting[:200]}: {value[:200]} is not readable YAML: {error}") from error
    return build(data)


def of_run(run: Path) -> dict[str, Any]:
    """What a run wrote down of its configuration, configuration.yaml. Raises ConfigurationError."""
    file = run / "configuration.yaml"
    if not file.is_file():
        raise ConfigurationError(f"{run} holds no run: {file.name} is missing")
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{file} is not readable YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigurationError(f"{file}: expected a mapping of settings")
    return data


def build(data: dict[str, Any]) -> Configuration:
    """A checked configuration from a mapping. Raises ConfigurationError that names every wrong key."""
    name = data.get("name", "configuration")
    try:
        c = TypeAdapter(Configuration).validate_python(data)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigurationError(f"{name}: " + "; ".join(lines)) from None
    _check(c)
    return c if c.out else replace(c, out=f"runs/{c.name}")


def _check(c: Configuration) -> None:
    profile = PROFILES.get(c.reward.profile)
    if told := [t for key in _NUMBERS if key in c.arguments and (t := _no_number(key, c.arguments[key]))]:
        raise ConfigurationError(f"{c.name}: {'; '.join(told)}")
    wrong = []
    if profile is None:
        raise ConfigurationError(f"{c.name}: reward.profile {c.reward.profile!r}; known: {', '.join(PROFILES)}")
    if unknown := sorted(set(c.reward.weights) - set(profile.terms)):
        wrong.append(f"reward.weights: {profile.name} has no {', '.join(unknown)}; it has {', '.join(profile.terms)}")
    if profile.needs_masks and not c.reward.segmenter:
        wrong.append(f"reward.segmenter: {profile.name} needs one")
    if c.data.answer != profile.solution:
        wrong.append(f"data.answer is {c.data.answer!r} and {profile.name} reads {profile.solution!r}")
    if not architecture_file(c.model.architecture).is_file() and c.model.architecture != "embedded":
        known = [p.stem for p in sorted(ARCHITECTURES.glob("*.json"))]
        wrong.append(f"model.architecture {c.model.architecture!r}; known: embedded, {', '.join(known)}")
    if c.data.prompt not in TEMPLATES and "{question}" not in c.data.prompt:
        wrong.append(f"data.prompt {c.data.prompt!r} has no {{question}}; templates: {', '.join(TEMPLATES)}")
    if c.method == "grpo" and c.generations < 2:
        wrong.append(f"num_generations is {c.generations}; a group has at least 2")
    if c.method == "grpo" and (loss := c.grpo.get("loss_type", "grpo")) not in _LOSSES:
        wrong.append(f"loss_type {loss!r}; known: {', '.join(_LOSSES)}")
    if (keep := c.batch.keep) and c.method == "grpo":
        if keep < 2 or keep % 2 or c.generations % keep:
            wrong.append(f"batch.keep is {keep}; expected an even number that divides num_generations {c.generations}")
        if c.engine == "shared_prefix":
            wrong.append("batch.keep is for `engine: stock`")
        if unknown := [k for k, known in _KEEP.items() if c.grpo.get(k, known[0]) not in known]:
            wrong.append(f"batch.keep knows no other {', '.join(unknown)}")
    if int(c.arguments.get("max_steps", -1)) <= 0 and not float(c.arguments.get("num_train_epochs", 3)) > 0:
        wrong.append("neither max_steps nor num_train_epochs is above 0")
    if texts := [k for k in _SWITCHES if not isinstance(c.arguments.get(k, False), bool)]:
        wrong.append(f"{', '.join(texts)}: expected true or false")
    if other := _other_architecture(c.model):
        wrong.append(f"model.path is {c.model.path} and model.architecture {c.model.architecture}; set {other}")
    if c.watch.format_term and c.watch.format_term not in profile.terms:
        wrong.append(f"watch.format_term: {profile.name} has no {c.watch.format_term}")
    if c.model.quantise != "none" and c.model.lora is None:
        wrong.append("model.quantise: only the frozen base below LoRA can be quantised")
    if c.model.lora and c.model.freeze:
        wrong.append("model.freeze: with LoRA everything else is frozen")
    if c.model.dtype == "bfloat16" and c.model.lora is None:
        wrong.append("model.dtype: a learning rate of 1e-6 is mostly rounded away in bfloat16 weights; take float32")
    if c.model.lora and float(c.arguments.get("learning_rate", 1e-6)) < 5e-6:
        wrong.append("learning_rate: LoRA needs 1e-5 or more, and 5e-6 to go on (StAR)")
    if derived := sorted(DERIVED & {*c.trl, *c.grpo, *c.sft}):
        wrong.append(f"{', '.join(derived)} come from other settings")
    if c.engine == "shared_prefix" and c.rollout != "transformers":
        wrong.append("engine: shared_prefix answers by itself; rollout must be transformers")
    if c.engine == "shared_prefix" and c.batch.rollout:
        wrong.append("batch.rollout is for `engine: stock`; a shared prefix takes little memory")
    if wrong:
        raise ConfigurationError(f"{c.name}: " + "; ".join(wrong))


def _no_number(key: str, value: Any) -> str:
    """What is wrong with a setting that is a number; ""."""
    kind, least, most = _NUMBERS[key]
    whole = " whole" if kind is int else ""
    if (
        isinstance(value, bool)
        or not isinstance(value, int if kind is int else (int, float))
        or not math.isfinite(value)
    ):
        return f"{key} is {value!r}; expected a{whole} number"
    if not least <= value <= most:
        return f"{key} is {value!r}; expected at least {least:g}" + (f", at most {most:g}" if most < math.inf else "")
    return ""


def _other_architecture(model: Model) -> str:
    """The known architecture that a hub's name tells, where it is not the one that is set; else ""."""
    said = re.sub(r"[^a-z0-9]+", "_", model.path.rpartition("/")[2].lower())
    known = [p.stem for p in ARCHITECTURES.glob("*.json") if p.stem in said]
    return known[0] if known and model.architecture not in known and not Path(model.path).is_dir() else ""


def architecture_file(name: str) -> Path:
    return ARCHITECTURES / f"{name}.json"


def plain(c: Configuration) -> dict[str, Any]:
    """As it goes into files: lists, mappings, numbers, texts."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(c)))
    return found


def differences(old: dict[str, Any], new: dict[str, Any], at: str = "") -> list[str]:
    """Keys, dotted, whose values differ."""
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{at}{key}.")
        elif a != b:
            found.append(at + key)
    return found


def processes() -> int:
    """As torchrun and accelerate say it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def main_process() -> bool:
    """Whether this one writes and shows things."""
    return int(os.environ.get("RANK", "0")) == 0
