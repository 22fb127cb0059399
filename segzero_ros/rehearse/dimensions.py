"""The real dimensions of published checkpoints, by name, or from the config.json of any other of the same classes.

Nothing is allocated here: models are built on torch's meta device, where tensors have a shape and no memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import torch

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.profiles import Profile
from segzero_ros.core.text import first_line
from segzero_ros.rehearse import ARCHITECTURES

Role = Literal["reasoner", "segmenter"]

# Checkpoints whose dimensions are those of a file in architectures/.
PUBLISHED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2_5_vl_3b",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl_7b",
    "Qwen/Qwen3-VL-2B-Instruct": "qwen3_vl_2b",
    "Qwen/Qwen3-VL-4B-Instruct": "qwen3_vl_4b",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3_vl_8b",
    "Ricky06662/Seg-Zero-7B": "qwen2_5_vl_7b",
    "Ricky06662/VisionReasoner-7B": "qwen2_5_vl_7b",
    "nvidia/Cosmos-Reason2-2B": "qwen3_vl_2b",
    "nvidia/Cosmos-Reason2-8B": "qwen3_vl_8b",
    "sj9909/StAR-7B": "qwen2_5_vl_7b",
    **{
        f"facebook/{version}-hiera-{size}": f"sam2_{size.replace('-', '_')}"
        for version in ("sam2", "sam2.1")
        for size in ("tiny", "small", "base-plus", "large")
    },
}
_CLASSES: dict[Role, tuple[str, ...]] = {
    "reasoner": get_args(get_type_hints(Profile)["model_class"]),
    "segmenter": ("sam2", "sam2_video"),
}
# What a configuration says besides dimensions: it would change how a model is made.
_IGNORED = {"_name_or_path", "architectures", "auto_map", "dtype", "quantization_config", "torch_dtype"}
_MOST_LAYERS = 1000
_LARGEST = 10_000_000  # of any other number of a configuration
_MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Dimensions:
    """What a checkpoint holds. tensors: shapes by the names of the model class, tied weights once."""

    name: str
    role: Role
    model_class: str
    config: Any
    tensors: dict[str, torch.Size]

    @property
    def parameters(self) -> int:
        return sum(shape.numel() for shape in self.tensors.values())

    def cache_bytes(self, tokens: int, dtype: torch.dtype) -> int:
        """Keys and values of so many tokens; 0 for a segmenter."""
        text = getattr(self.config, "text_config", None)
        if text is None:
            return 0
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return int(2 * text.num_hidden_layers * text.num_key_value_heads * head * tokens * dtype.itemsize)


def shipped(role: Role) -> list[str]:
    return sorted(path.stem for path in (ARCHITECTURES / f"{role}s").glob("*.json"))


def find_dimensions(checkpoint: str, role: Role, *, ids: dict[str, int] | None = None) -> Dimensions:
    """checkpoint: a shipped name, a published checkpoint, a config.json, or a folder with one.

    ids: special tokens of the configuration that are to be these. Raises SegzeroError(NOT_READY) with a sentence.
    """
    name = PUBLISHED.get(checkpoint, checkpoint)
    path = Path(checkpoint).expanduser()
    if name in shipped(role):
        path = ARCHITECTURES / f"{role}s" / f"{name}.json"
    elif path.is_dir():
        path /= "config.json"
    if not path.is_file():
        option = "--dimensions" if role == "reasoner" else "--segmenter-dimensions"
        raise SegzeroError(
            Status.NOT_READY,
            f"the dimensions of {checkpoint[:200]} are not known here; {option} takes {', '.join(shipped(role))}, "
            "or the path of its config.json",
        )
    return build_dimensions(name, role, _read(path, role), ids or {})


def build_dimensions(name: str, role: Role, settings: dict[str, Any], ids: dict[str, int]) -> Dimensions:
    """Raises SegzeroError(NOT_READY) for settings that make no model."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

    factory: Any = AutoModelForImageTextToText if role == "reasoner" else AutoModel
    try:
        config = AutoConfig.for_model(**{k: v for k, v in settings.items() if k not in _IGNORED})
        for key, value in ids.items():
            setattr(config, key, value)
        with torch.device("meta"):
            model = factory.from_config(config)
        if not all(t.numel() for t in model.state_dict().values()):
            raise ValueError("some of its weights have no elements")
    except Exception as error:  # the library raises anything for settings that do not fit each other
        raise SegzeroError(Status.NOT_READY, f"{name} has no usable dimensions: {first_line(error)}") from error
    unique = {*dict(model.named_parameters()), *dict(model.named_buffers())}  # of tied weights the first
    tensors = {k: v.shape for k, v in model.state_dict().items() if k in unique}
    return Dimensions(name, role, type(model).__name__, config, tensors)


def _read(path: Path, role: Role) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("it holds no settings")
        _check_numbers(settings)
    except (OSError, ValueError, RecursionError) as error:
        raise SegzeroError(Status.NOT_READY, f"{path} is no readable config.json: {first_line(error)}") from error
    kind = settings.get("model_type")
    if kind not in _CLASSES[role]:
        raise SegzeroError(
            Status.NOT_READY,
            f"{path} is of model_type {str(kind)[:100]!r}; a {role} is one of {', '.join(_CLASSES[role])}",
        )
    return settings


def _check_numbers(settings: dict[str, Any]) -> None:
    """Building a model of a billion layers would not end, on the meta device either."""
    for key, value in _numbers(settings):
        most = _MOST_LAYERS if key in ("num_hidden_layers", "depth", "blocks_per_stage") else _LARGEST
        if abs(value) > most:
            raise ValueError(f"{key[:100]} is {str(value)[:30]}; at most {most} is taken")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name != "rope_theta":
                yield from _numbers(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, key)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield key, value
