"""What runs where: device, number format, attention and memory, chosen by what is there and what works."""

from __future__ import annotations

import functools
import gc
import importlib
import logging
from typing import Any

import torch

from segzero_ros.core.contract import Cancel, OnProgress, SegzeroError, Status
from segzero_ros.core.text import first_line

log = logging.getLogger(__name__)

AMPERE = (8, 0)  # the first GPUs with bfloat16 and flash attention
FORMATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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
    """auto: bfloat16 on a GPU, and on a CPU that computes with it; else float32. Raises SegzeroError.

    float16 overflows in Qwen2.5-VL (every token is then "!"), so it is never chosen, only obeyed.
    """
    if requested and requested != "auto":
        if requested not in FORMATS:
            raise SegzeroError(Status.NOT_READY, f"{requested!r} is no number format; one of {', '.join(FORMATS)}")
        return FORMATS[requested]
    if device.type == "cuda" and not _computes_bfloat16(device):
        _warn_once(
            "this GPU computes bfloat16 by emulation (it is older than Ampere), which is slow; with dtype: float16 some"
            " models overflow, and the answer is then an error"
        )
    return torch.bfloat16 if device.type == "cuda" or cpu_has_bfloat16() else torch.float32


def _computes_bfloat16(device: torch.device) -> bool:
    with torch.cuda.device(device):  # torch asks for the current one
        return torch.cuda.is_bf16_supported(including_emulation=False)


@functools.cache
def _warn_once(sentence: str) -> None:
    log.warning("%s", sentence)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself (AVX-512 BF16, AMX, Arm BF16)."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and supported()) and _multiplies_bfloat16()


def _multiplies_bfloat16() -> bool:
    """oneDNN also says yes where it would emulate."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            flags = file.read()
    except OSError:
        return False
    return any(word in flags for word in ("avx512_bf16", "amx_bf16", " bf16"))


def choose_attention(requested: str | None, device: torch.device, dtype: torch.dtype) -> str:
    """auto: flash attention where its wheel works and the GPU has it, else torch's own."""
    if requested and requested != "auto":
        return requested
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):  # flash attention knows no other
        return "sdpa"
    from transformers.utils import is_flash_attn_2_available

    works = torch.cuda.get_device_capability(device) >= AMPERE and is_flash_attn_2_available()
    return "flash_attention_2" if works and _can_import("flash_attn") else "sdpa"


def _can_import(name: str) -> bool:
    """A wheel that was built for another torch is there and fails when it is imported."""
    try:
        importlib.import_module(name)
    except Exception as error:
        _warn_once(f"{name} is installed and cannot be used: {first_line(error)}")
        return False
    return True


def move_to(model: Any, device: torch.device, tell: OnProgress, what: str, cancel: Cancel | None) -> Any:
    """The model on the device, module by module: a GPU takes seconds for it. Raises SegzeroError(CANCELLED)."""
    whole = max(1, memory_of(model))
    moved, told = 0, 0.0
    for module in model.modules():
        if any(True for _ in module.children()):
            continue
        if cancel is not None and cancel.is_set():
            raise SegzeroError(Status.CANCELLED, "the load was cancelled")
        module.to(device)
        moved += memory_of(module)
        if (share := min(1.0, moved / whole)) >= told + 0.05:
            told = share
            tell(share, what)
    return model.to(device)  # weights outside of leaf modules


def memory_of(model: torch.nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def release_memory() -> None:
    """Gives back what dropped models and failed requests hold: torch keeps a device's memory until it is asked."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
