"""A checkpoint of random numbers in the layout in which published ones lie on the hub: shards, index, older names.

One shard is in memory at a time. The tokenizer is the embedded one, far smaller than the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.models import checkpoints
from segzero_ros.rehearse.dimensions import Dimensions

SHARD_BYTES = 2_000_000_000
MARK = "rehearsal.json"
TOKENIZER = checkpoints.EMBEDDED / "reasoner"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
# As published: reasoners in bfloat16, segmenters in float32.
DTYPES = {"reasoner": torch.bfloat16, "segmenter": torch.float32}
# Names in published files, where they are older than the model class's own.
_OLDER_NAMES = {"qwen2_5_vl": (("model.language_model.", "model."), ("model.visual.", "visual."))}
# A prime, so that no two rows of a matrix are alike though one block of random numbers fills all.
_BLOCK = 16_777_213
_SCALE = 0.02  # the libraries' own initializer_range; sums stay finite in float16

OnBytes = Callable[[int], None]  # told how many bytes more are written


def special_ids() -> dict[str, int]:
    """The embedded tokenizer's special tokens by their names in a configuration."""
    tokenizer = _tokenizer()
    tokens = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {key: int(tokenizer.convert_tokens_to_ids(token)) for key, token in tokens.items()}


def disk_bytes(dimensions: Dimensions) -> int:
    return dimensions.parameters * DTYPES[dimensions.role].itemsize


def is_whole(folder: Path, dimensions: Dimensions) -> bool:
    """Whether the folder holds a whole checkpoint of these dimensions that was written here."""
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        checkpoints.check(folder, dimensions.role)
    except (OSError, ValueError, SegzeroError):
        return False
    return bool(mark == _mark(dimensions))


def write_checkpoint(dimensions: Dimensions, folder: Path, on_bytes: OnBytes = lambda count: None) -> None:
    """Writes beside the folder and renames, so that a folder is whole or not there.

    Raises SegzeroError(NOT_READY) where something else lies in the folder, and OSError for a full disk.
    """
    if folder.exists() and not (folder / MARK).is_file():
        raise SegzeroError(Status.NOT_READY, f"{folder} holds something else; it is left as it is: name another folder")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _write_weights(dimensions, part, on_bytes)
        (_write_reasoner_files if dimensions.role == "reasoner" else _write_segmenter_files)(dimensions, part)
        (part / MARK).write_text(json.dumps(_mark(dimensions), indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _mark(dimensions: Dimensions) -> dict[str, str]:
    settings = json.dumps(_published_settings(dimensions), sort_keys=True)
    digest = hashlib.sha256((settings + str(_SCALE)).encode()).hexdigest()
    return {"what": "random numbers in the layout of a checkpoint, not a trained model", "dimensions": digest}


def _write_weights(dimensions: Dimensions, folder: Path, on_bytes: OnBytes) -> None:
    dtype = DTYPES[dimensions.role]
    names = {_published_name(name, dimensions): name for name in dimensions.tensors}
    split = split_state_dict_into_shards_factory(
        {published: dimensions.tensors[name] for published, name in names.items()},
        get_storage_size=lambda shape: shape.numel() * dtype.itemsize,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD_BYTES,
    )
    block = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0)).mul_(_SCALE).to(dtype)
    for file, members in split.filename_to_tensors.items():
        shard = {published: _filled(names[published], dimensions, block) for published in members}
        save_file(shard, folder / file, metadata={"format": "pt"})
        on_bytes(sum(t.numel() * t.element_size() for t in shard.values()))
        del shard
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def _published_name(name: str, dimensions: Dimensions) -> str:
    for own, older in _OLDER_NAMES.get(dimensions.config.model_type, ()):
        if name.startswith(own):
            return older + name.removeprefix(own)
    return name


def _filled(name: str, dimensions: Dimensions, block: torch.Tensor) -> torch.Tensor:
    """One tensor: norms 1, biases 0, all else random."""
    shape = dimensions.tensors[name]
    tensor = torch.empty(shape, dtype=block.dtype)
    if tensor.dim() < 2:
        return tensor.fill_(0.0 if name.endswith("bias") else 1.0)
    flat = tensor.view(-1)
    for start in range(0, flat.numel(), block.numel()):
        part = flat[start : start + block.numel()]
        part.copy_(block[: part.numel()])
    if name.endswith(("embed_tokens.weight", "lm_head.weight")):
        tensor[_unspoken(shape[0])] = 0.0  # below the largest of many random logits, so never written
    return tensor


def _unspoken(rows: int) -> torch.Tensor:
    """(rows,) bool: tokens that a rehearsal must not write, or it would end early or write nothing that can be read."""
    tokenizer = _tokenizer()
    if rows < len(tokenizer):
        raise SegzeroError(
            Status.NOT_READY, f"a vocabulary of {rows} is too small; at least {len(tokenizer)} are needed"
        )
    mute = torch.ones(rows, dtype=torch.bool)
    for i in set(range(len(tokenizer))) - set(tokenizer.all_special_ids) - set(special_ids().values()):
        text = tokenizer.decode([i], skip_special_tokens=True)
        mute[i] = not text or not text.isprintable() or "\ufffd" in text
    return mute


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TOKENIZER, local_files_only=True)


def _published_settings(dimensions: Dimensions) -> dict[str, Any]:
    """config.json as it lies on the hub: that of Qwen2.5-VL is flat."""
    settings = _without_nulls(json.loads(dimensions.config.to_json_string(use_diff=False)))
    dtype = str(DTYPES[dimensions.role]).removeprefix("torch.")
    settings |= {"architectures": [dimensions.model_class], "dtype": dtype}
    if dimensions.config.model_type != "qwen2_5_vl":
        return dict(settings)
    text, vision = settings.pop("text_config"), settings["vision_config"]
    rope = text.pop("rope_parameters")
    text.pop("layer_types", None)
    vision["model_type"] = "qwen2_5_vl"
    del settings["dtype"]
    older = {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "torch_dtype": dtype,
    }
    return {**text, **settings, **older}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def _write_reasoner_files(dimensions: Dimensions, folder: Path) -> None:
    tokenizer, config = _tokenizer(), dimensions.config
    for file in _TOKENIZER_FILES:
        shutil.copyfile(TOKENIZER / file, folder / file)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    settings = {**_published_settings(dimensions), "eos_token_id": end, "pad_token_id": pad}
    _write_json(folder / "config.json", settings)
    _write_json(folder / "generation_config.json", {"do_sample": True, "eos_token_id": [end], "pad_token_id": pad})
    vision = config.vision_config
    pixels = {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}
    _write_json(folder / "preprocessor_config.json", {"image_processor_type": "Qwen2VLImageProcessorFast", **pixels})


def _write_segmenter_files(dimensions: Dimensions, folder: Path) -> None:
    _write_json(folder / "config.json", _published_settings(dimensions))
    _write_json(folder / "preprocessor_config.json", {"image_processor_type": "Sam2ImageProcessorFast"})


def _write_json(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
