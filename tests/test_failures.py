"""What a library's exception means, by the texts that libraries write."""

from __future__ import annotations

import errno
import weakref

import numpy as np
import pytest
import torch

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.failures import drop_frames, is_lost_device, is_out_of_memory, lost_device_sentence

NO_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 7.44 GiB"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/opt/pytorch/c10/cuda/CUDACachingAllocator.cpp":1016'),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("NvMapMemAllocInternalTagged: 1075072515 error 12"),
    RuntimeError("NvMapMemHandleAlloc: error 0"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried"),
    RuntimeError("unable to mmap 4294967296 bytes from file </model.safetensors>: Cannot allocate memory (12)"),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((2160, 3840, 254), np.dtype(np.float32)),  # type: ignore[attr-defined]
)
LOST = (
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    torch.AcceleratorError("CUDA error: a code that is not known yet"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),  # torch before AcceleratorError
    RuntimeError("CUDA error: an illegal instruction was encountered"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: the launch timed out and was terminated"),
    RuntimeError("CUDA error: unknown error"),
    RuntimeError("Unable to determine the device handle for GPU0: GPU is lost. Reboot the system to recover this GPU"),
)
NEITHER = (
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasLtMatmul(handle)`"),
    torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
    torch.AcceleratorError("CUDA error: invalid device ordinal"),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("config.json says: an illegal memory access was encountered"),
    KeyError("mug"),
)


def name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:60]


@pytest.mark.parametrize("error", NO_MEMORY, ids=name)
def test_memory_that_is_missing_is_known_in_all_its_disguises(error: BaseException) -> None:
    assert is_out_of_memory(error) and not is_lost_device(error)


@pytest.mark.parametrize("error", LOST, ids=name)
def test_a_lost_gpu_is_known_and_said_with_what_to_do(error: BaseException) -> None:
    assert is_lost_device(error) and not is_out_of_memory(error)
    assert "the process must be started anew" in lost_device_sentence(error)
    assert len(lost_device_sentence(RuntimeError("CUDA error: unknown error" + "x" * 10_000))) < 400


@pytest.mark.parametrize("error", NEITHER, ids=name)
def test_other_errors_are_neither(error: BaseException) -> None:
    assert not is_out_of_memory(error) and not is_lost_device(error)


@pytest.mark.parametrize("explicit", [True, False])
def test_the_causes_of_an_error_are_read_too(explicit: bool) -> None:
    def wrapped(cause: BaseException) -> BaseException:
        try:
            try:
                raise cause
            except type(cause):
                raise SegzeroError(Status.NOT_READY, "could not load it") from (cause if explicit else None)
        except SegzeroError as error:
            if not explicit:
                error.__suppress_context__ = False
            return error

    assert is_out_of_memory(wrapped(MemoryError()))
    assert "illegal memory" in lost_device_sentence(wrapped(LOST[0]))


def test_a_circle_of_causes_ends() -> None:
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__context__, other.__context__ = other, one
    assert not is_out_of_memory(one)


def test_an_error_that_is_kept_does_not_keep_what_the_failed_calls_held() -> None:
    held: list[weakref.ref] = []

    def fail() -> None:
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        raise RuntimeError("inner")

    def wrap() -> None:
        try:
            fail()
        except RuntimeError as error:
            raise SegzeroError(Status.NOT_READY, "outer") from error

    with pytest.raises(SegzeroError) as caught:
        wrap()
    kept = caught.value
    assert held[0]() is not None
    drop_frames(kept)
    assert held[0]() is None and kept.__traceback__
