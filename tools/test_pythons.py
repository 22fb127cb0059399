"""Run tests on each of several Python versions that is found, and say which was not.

    python tools/test_pythons.py tests/test_core.py ... [--versions 3.10 3.12] [--torch-index URL]

Looks on PATH, then among pyenv's versions. Makes .venv-3.10 and the like from requirements/run.txt, without torch and
transformers: from the general index torch comes with several GB of CUDA. With an index for torch both are installed
too, and the tests that need a model run instead of being skipped.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"


def find_python(version: str) -> str | None:
    """An interpreter of this version that starts and can make environments."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    on_path = shutil.which(f"python{version}")
    candidates = [on_path] if on_path else []
    candidates += [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)]
    for candidate in candidates:
        # pyenv puts names on PATH that do not start, and Debian splits venv off.
        if subprocess.run([candidate, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0:
            return candidate
    return None


def make_environment(python: str, folder: Path, torch_index: str) -> Path:
    """An environment with the library and pytest, made anew when the requirements change; returns its interpreter."""
    own = folder / "bin" / "python"
    files = ("run.txt", "test.txt", "constraints.txt")
    made_from = hashlib.sha256(b"".join((REQUIREMENTS / name).read_bytes() for name in files)).hexdigest() + torch_index
    stamp = folder / ".made-from"
    if stamp.is_file() and stamp.read_text() == made_from:
        return own
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    pip = [str(own), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    wanted = [line for line in (REQUIREMENTS / "run.txt").read_text().splitlines() if "==" in line]
    torch = [line for line in wanted if line.startswith("torch==")]
    if torch_index:
        subprocess.run([*pip, "--index-url", torch_index, *torch], check=True)
    else:
        with_torch = ("torch==", "transformers==", "peft==", "accelerate==")  # or bring it
        wanted = [line for line in wanted if not line.startswith(with_torch)]
    constraints = ["-c", str(REQUIREMENTS / "constraints.txt")]
    subprocess.run([*pip, *constraints, *wanted, "-r", str(REQUIREMENTS / "test.txt")], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", str(ROOT)], check=True)
    stamp.write_text(made_from)
    return own


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--versions", nargs="+", default=["3.10", "3.12"])
    parser.add_argument("--torch-index", default="")
    arguments = parser.parse_args()
    outcomes: dict[str, str] = {}
    for version in arguments.versions:
        python = find_python(version)
        if python is None:
            outcomes[version] = "not found"
            continue
        print(f"== Python {version}: {python}", flush=True)
        try:
            own = make_environment(python, ROOT / f".venv-{version}", arguments.torch_index)
            pytest = [str(own), "-m", "pytest", "-m", "not long and not gpu", *arguments.tests]
            subprocess.run(pytest, check=True, cwd=ROOT)
            outcomes[version] = "passed"
        except subprocess.CalledProcessError:
            outcomes[version] = "FAILED"
    for version, outcome in outcomes.items():
        print(f"core and command line on Python {version}: {outcome}")
    return int("FAILED" in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
