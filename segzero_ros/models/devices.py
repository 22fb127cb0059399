"""What runs where: device, number format and memory, chosen by what is there."""

from __future__ import annotations

import gc
import importlib.util

import torch

from segzero_ros.core.contract import SegzeroError, Status


def choose_device(requested: str | None) -> torch.device:
    if not requested or requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise SegzeroError(Status.NOT_READY, f"{requested!r} is no device; try auto, cpu or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise SegzeroError(Status.NOT_READY, f"{requested} is not supported; try auto, cpu or cuda:0")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise SegzeroError(
            Status.NOT_READY, f"{requested} was asked for, but this torch sees {count or 'no'} CUDA devices"
        )
    return device


def choose_dtype(requested: str | None, device: torch.device) -> torch.dtype:
    if not requested or requested == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if requested not in dtypes:
        raise SegzeroError(Status.NOT_READY, f"{requested!r} is no number format; one of {', '.join(dtypes)}")
    return dtypes[requested]


def choose_attention(requested: str | None, device: torch.device, dtype: torch.dtype) -> str:
    if requested and requested != "auto":
        return requested
    fits = device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)  # flash attention knows no other
    flash = fits and importlib.util.find_spec("flash_attn") is not None
    return "flash_attention_2" if flash else "sdpa"


def memory_of(model: torch.nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def release_memory() -> None:
    """Gives back what dropped models and failed requests hold: torch keeps a device's memory until it is asked."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
