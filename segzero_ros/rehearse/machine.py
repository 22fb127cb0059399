"""What this machine is and has: libraries, device, memory, disk. Bytes and seconds throughout."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import shutil
import threading
from pathlib import Path
from typing import Any

import torch

_PAUSE = 0.02  # seconds between two looks at the process's memory


def describe_machine(device: torch.device) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "device": str(device),
        "memory_free": free_host_memory(),
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "gpu_memory_free": free,
            "gpu_memory_total": total,
        }
    return facts


def free_memory(device: torch.device) -> int:
    """Bytes that models could take on this device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_host_memory()


def has_memory_of_its_own(device: torch.device) -> bool:
    """False for a CPU, and for a GPU that shares the host's memory (Jetson)."""
    return device.type == "cuda" and not getattr(torch.cuda.get_device_properties(device), "is_integrated", False)


def free_host_memory() -> int:
    """Bytes that are free or can be freed, within the limit of a container."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, int(limit) - int(used) + int(statistics["file"]))  # cached files are given back
    except (OSError, ValueError, KeyError):
        pass  # no container, or one without a limit ("max")
    return max(0, free)


def free_disk(folder: Path) -> int:
    """Bytes free where this folder is or would be."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def is_in_memory(folder: Path) -> bool:
    """Whether files of this folder take memory and not disk (tmpfs, as /tmp is on some systems)."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists()).resolve()
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return False
    above = [(len(point), kind) for point, kind in mounts if there.is_relative_to(point)]
    return max(above, default=(0, ""))[1] in ("tmpfs", "ramfs")


def process_memory() -> dict[str, int]:
    """anonymous: bytes of this process's own; mapped: pages of files (weights) that lie in memory for it."""
    wanted = {"RssAnon": "anonymous", "RssFile": "mapped"}
    try:
        lines = (line.partition(":") for line in Path("/proc/self/status").read_text().splitlines())
        return {wanted[key]: int(value.split()[0]) * 1024 for key, _, value in lines if key in wanted}
    except OSError:
        return dict.fromkeys(wanted.values(), 0)


class Peak:
    """The most memory that was taken beyond what was there at the start: of the GPU where the device is one.

    with Peak(device) as peak: ...; then peak.bytes
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            _give_back_freed_memory()
            self._before = self._most = process_memory()["anonymous"]
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            most = torch.cuda.max_memory_allocated(self.device)
        else:
            self._done.set()
            self._thread.join()
            most = self._most
        self.bytes = max(0, most - self._before)

    def _watch(self) -> None:
        while True:
            self._most = max(self._most, process_memory()["anonymous"])
            if self._done.wait(_PAUSE):
                self._most = max(self._most, process_memory()["anonymous"])
                return


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _give_back_freed_memory() -> None:
    """glibc keeps what was freed, so that what is taken next would not be seen."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
