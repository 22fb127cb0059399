"""Device, number format and attention are chosen by what works, seen through a torch that says it has a GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from segzero_ros.core.contract import Cancel, SegzeroError, Status
from segzero_ros.models import devices

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GPU of this capability, with or without bfloat16 in hardware and a working flash attention."""

    def having(capability: tuple[int, int], bfloat16: bool, flash: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(devices, "_computes_bfloat16", lambda device: bfloat16)
        monkeypatch.setattr(devices, "_can_import", lambda name: flash)
        devices._warn_once.cache_clear()
        monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: flash)

    return having


def test_auto_takes_bfloat16_on_a_gpu(gpu: Any) -> None:
    gpu((8, 7), bfloat16=True, flash=False)
    assert devices.choose_device("auto").type == "cuda"
    assert devices.choose_dtype("auto", GPU) is torch.bfloat16


def test_a_gpu_that_emulates_bfloat16_is_warned_of(gpu: Any, caplog: pytest.LogCaptureFixture) -> None:
    gpu((7, 5), bfloat16=False, flash=True)
    with caplog.at_level(logging.WARNING):
        assert devices.choose_dtype(None, GPU) is torch.bfloat16
    assert "emulation" in caplog.text and "float16" in caplog.text


@pytest.mark.parametrize(("in_hardware", "wanted"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bfloat16_on_a_cpu_that_computes_with_it(
    monkeypatch: pytest.MonkeyPatch, in_hardware: bool, wanted: torch.dtype
) -> None:
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: in_hardware)
    assert devices.choose_dtype("auto", CPU) is wanted
    assert devices.choose_dtype("float16", CPU) is torch.float16, "what is asked for is obeyed"


@pytest.mark.parametrize(
    ("capability", "flash", "dtype", "wanted"),
    [
        ((8, 0), True, torch.bfloat16, "flash_attention_2"),
        ((8, 7), False, torch.bfloat16, "sdpa"),
        ((7, 5), True, torch.float16, "sdpa"),
        ((9, 0), True, torch.float32, "sdpa"),
    ],
)
def test_flash_attention_is_taken_where_it_works(
    gpu: Any, capability: tuple[int, int], flash: bool, dtype: torch.dtype, wanted: str
) -> None:
    gpu(capability, bfloat16=True, flash=flash)
    assert devices.choose_attention("auto", GPU, dtype) == wanted
    assert devices.choose_attention("eager", GPU, dtype) == "eager"


def test_a_wheel_that_does_not_load_is_not_taken(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    can_import = devices._can_import
    gpu((8, 0), bfloat16=True, flash=True)
    monkeypatch.setattr(devices, "_can_import", can_import)
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert devices.choose_attention("auto", GPU, torch.bfloat16) == "sdpa"
    assert "undefined symbol" in caplog.text


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps", "cuda:7", ""])
def test_a_device_that_is_none_is_a_sentence(name: str, gpu: Any) -> None:
    gpu((8, 0), bfloat16=True, flash=True)
    if not name:
        assert devices.choose_device(name).type == "cuda"
        return
    with pytest.raises(SegzeroError) as error:
        devices.choose_device(name)
    assert error.value.status is Status.NOT_READY and name in error.value.message


def test_weights_move_with_their_share_told_and_stop_at_the_flag() -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(10)))
    model.register_buffer("table", torch.zeros(4))
    told: list[float] = []
    moved = devices.move_to(model, torch.device("meta"), lambda share, what: told.append(share), "moving", None)
    assert {t.device.type for t in (*moved.parameters(), *moved.buffers())} == {"meta"}
    assert told == sorted(told) and len(told) >= 9 and told[-1] > 0.9
    flag = Cancel()
    whole = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(10)))
    with pytest.raises(SegzeroError) as error:
        devices.move_to(whole, torch.device("meta"), lambda share, what: flag.set(), "moving", flag)
    assert error.value.status is Status.CANCELLED
    assert whole[-1].weight.device.type == "cpu"
