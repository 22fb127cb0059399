"""What a library's exception is taken for, by the texts that libraries write."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from segzero_ros.core.failures import is_lost_device, is_out_of_memory

NO_MEMORY = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.44 GiB",
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1016, please report a bug',
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "NvMapMemAllocInternalTagged: 1075072515 error 12",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8",
    "unable to mmap 4932870032 bytes from file <model.safetensors>: Cannot allocate memory (12)",
    "OpenCV(4.14.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 800000000 bytes",
    "CUDA error: out of memory",
]
LOST = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "CUDA error: unspecified launch failure",
    "CUDA error: an illegal instruction was encountered",
    "CUDA error: misaligned address",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: the launch timed out and was terminated",
    "Unable to determine the device handle for GPU0000:01:00.0: GPU is lost",
]


@pytest.mark.parametrize("text", NO_MEMORY)
def test_missing_memory_is_known_by_all_its_names(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text)) and not is_lost_device(RuntimeError(text))


@pytest.mark.parametrize("text", LOST)
def test_a_lost_device_is_known_by_all_its_names(text: str) -> None:
    assert is_lost_device(RuntimeError(text)) and not is_out_of_memory(RuntimeError(text))


def test_what_raised_it_counts() -> None:
    def chained(inner: Exception) -> Exception:
        try:
            try:
                raise inner
            except Exception as error:
                raise RuntimeError("could not load") from error
        except RuntimeError as outer:
            return outer

    assert is_out_of_memory(chained(MemoryError()))
    assert is_lost_device(chained(RuntimeError(LOST[0])))


def test_types_count_where_texts_differ() -> None:
    accelerator = type("AcceleratorError", (RuntimeError,), {})
    assert is_lost_device(accelerator("CUDA error: something new"))
    assert not is_lost_device(accelerator(NO_MEMORY[0]))
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    with pytest.raises(MemoryError) as error:
        np.empty((1 << 40, 1 << 20), np.uint8)
    assert is_out_of_memory(error.value)


@pytest.mark.parametrize("text", ["shapes do not fit", "expected scalar type", "out of range", ""])
def test_other_errors_are_of_the_request_alone(text: str) -> None:
    assert not is_out_of_memory(ValueError(text)) and not is_lost_device(ValueError(text))
