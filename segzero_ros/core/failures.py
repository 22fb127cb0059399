"""What a library's exception means: no memory, a lost device, or a fault of the request alone."""

from __future__ import annotations

import errno
from collections.abc import Iterator

# Lower case. torch says so on a CPU with a bare RuntimeError, OpenCV and the CUDA libraries each in their own way.
_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "insufficient memory",
    "unable to mmap",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cusolver_status_alloc_failed",
    "cublas_status_not_initialized",  # its handle is made at the first use, and takes memory
    "nvml_success == r internal assert failed",  # Jetson has no NVML; torch asks it when memory is short
    "nvmapmemalloc",
)
# The context of the process is gone: every later call fails, also after the request.
_LOST_DEVICE = (
    "illegal memory access",
    "illegal instruction was encountered",
    "misaligned address",
    "device-side assert",
    "unspecified launch failure",
    "uncorrectable ecc",
    "device is lost",
    "gpu is lost",
    "has fallen off the bus",
    "launch timed out and was terminated",
    "invalid device context",
    "context is destroyed",
    "hardware stack error",
    "mmu fault",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was missing, on the device or the host, whatever the library calls it."""
    for e in _chain(error):
        if isinstance(e, MemoryError) or type(e).__name__ == "OutOfMemoryError":
            return True
        if isinstance(e, OSError) and e.errno == errno.ENOMEM:
            return True
        if any(words in str(e)[:20_000].lower() for words in _NO_MEMORY):
            return True
    return False


def is_lost_device(error: BaseException) -> bool:
    """Whether the GPU's context is gone, so that only a new process can use it again."""
    if is_out_of_memory(error):
        return False
    return any(
        type(e).__name__ == "AcceleratorError" or any(words in str(e)[:20_000].lower() for words in _LOST_DEVICE)
        for e in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from or while handling, at most ten."""
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
