"""A server of the tests as a process: started, asked for its port, ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def served(module: str) -> Iterator[str]:
    """The address of `python -m tests.servers.MODULE` while it runs."""
    command = [sys.executable, "-m", f"tests.servers.{module}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
