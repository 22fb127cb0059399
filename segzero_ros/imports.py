"""Imports tried in a process of their own: a wheel that was built for another processor ends the one that loads it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_CHILD = """
import importlib, json, os, sys, warnings
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what a library prints is no answer
warnings.simplefilter("ignore")
sys.path[:] = json.loads(sys.argv[1])
for name in sys.argv[2:]:
    answer = {"works": True}
    try:
        importlib.import_module(name)
        root = sys.modules[name.partition(".")[0]]
        answer |= {"version": str(getattr(root, "__version__", "")), "file": str(getattr(root, "__file__", ""))}
    except BaseException as error:
        answer = {"works": False, "reason": f"{type(error).__name__}: {error}"[:2000]}
        if isinstance(error, ModuleNotFoundError):
            answer["lacks"] = error.name or ""
    print(json.dumps(answer), file=answers, flush=True)
os._exit(0)  # what cannot be imported may not be able to end either
"""


@dataclass(frozen=True)
class Trial:
    """How an import went. version, file: of the package. reason: why not; lacks: the module that is not there."""

    works: bool
    version: str = ""
    file: str = ""
    reason: str = ""
    lacks: str = ""


def try_imports(modules: Sequence[str]) -> dict[str, Trial]:
    """Imports modules one after another, and goes on behind one that ends the process."""
    trials: dict[str, Trial] = {}
    while left := [name for name in modules if name not in trials]:
        command = [sys.executable, "-c", _CHILD, json.dumps([str(p) for p in sys.path]), *left]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        lines = done.stdout.decode("utf-8", "replace").splitlines()
        trials |= {name: Trial(**json.loads(line)) for name, line in zip(left, lines, strict=False)}
        if len(lines) < len(left):
            trials[left[len(lines)]] = Trial(False, reason=f"importing it ends the process: {_ending(done.returncode)}")
    return trials


def _ending(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
