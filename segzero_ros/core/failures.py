"""What a library's exception means: too little memory, or a GPU that this process can use no more.

Libraries say both in many ways and wrap them in exceptions of their own, so the whole chain of causes is read.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator

from segzero_ros.core.text import first_line

# Parts of messages, in lower case.
_NO_MEMORY = (
    "out of memory",
    "out_of_memory",
    "insufficient memory",  # OpenCV
    "can't allocate memory",  # torch on a CPU
    "cannot allocate memory",  # the operating system, also behind "unable to mmap"
    "defaultcpuallocator",
    "bad_alloc",
    "_status_alloc_failed",  # cuBLAS, cuDNN, cuSOLVER, cuSPARSE
    "nvml_success == r internal assert failed",  # torch's allocator on a Jetson, whose NVML knows no memory
    "nvmapmemalloc",  # a Jetson's driver
    "nvmapmemhandlealloc",
    # Its workspace is the first thing that cuBLAS allocates. Without "cublasCreate" it follows another error.
    "cublas_status_not_initialized when calling `cublascreate",
)
_LOST_DEVICE = (
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "launch timed out",
    "illegal instruction",
    "misaligned address",
    "invalid program counter",
    "hardware stack error",
    "uncorrectable",  # ECC and NVLink errors
    "device lost",
    "gpu is lost",
    "context is destroyed",
    "cuda error: unknown error",
)
# What torch reports as an error of the accelerator although its context lives, or a new process would find the same.
_CONTEXT_LIVES = (
    "no kernel image",
    "invalid argument",
    "invalid configuration argument",
    "invalid device function",
    "invalid device ordinal",
    "too many resources requested",
    "driver version is insufficient",
    "operation not supported",
    "busy or unavailable",
    "no cuda-capable device",
    "not yet initialized",
    "initialization error",
    "system has unsupported",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library or the operating system ran out of memory, as the error itself or as a cause of it."""
    return any(_says_no_memory(one) for one in _chain(error))


def is_lost_device(error: BaseException) -> bool:
    """Whether the GPU's context is lost: every later call of this process fails, and only a new one helps."""
    return any(_says_lost_device(one) for one in _chain(error)) and not is_out_of_memory(error)


def lost_device_sentence(error: BaseException) -> str:
    """For a person: what happened and what to do. error: one that `is_lost_device`."""
    cause = next(one for one in _chain(error) if _says_lost_device(one))
    return f"the GPU's context is lost; the process must be started anew: {first_line(cause)}"


def drop_frames(error: BaseException) -> None:
    """Drops the local variables of the calls that failed: whoever keeps the error would keep their tensors."""
    for one in _chain(error):
        traceback.clear_frames(one.__traceback__)


def _says_no_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return any(words in text for words in _NO_MEMORY)


def _says_lost_device(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError):  # as torch and its libraries raise it; elsewhere the words are a file's
        return False
    text = str(error).lower()
    if type(error).__name__ == "AcceleratorError":
        return not any(words in text for words in _CONTEXT_LIVES)
    return any(words in text for words in _LOST_DEVICE)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
