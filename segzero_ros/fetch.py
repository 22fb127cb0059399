"""The command `segzero fetch`: a profile's checkpoints onto this disk, or into a folder for a robot without network."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.text import clean
from segzero_ros.models.server_address import is_address, shown_address
from segzero_ros.profiles import Profile, load_profile

SPARE = 500_000_000  # bytes that stay free on the disk


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "fetch",
        help="fetch a profile's checkpoints from the hub",
        description="Says licences and sizes, then fetches what is not on this disk yet; of an interrupted fetch the "
        "whole files stay. --to makes a folder that can be copied to a robot without network.",
    )
    parser.add_argument("profile", help="a profile's name or the path of its YAML")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="copy the checkpoints there, as plain files")
    parser.add_argument("--dry-run", action="store_true", help="say sizes and licences, fetch nothing")


def run(arguments: argparse.Namespace) -> int:
    """Raises ProfileError and SegzeroError."""
    from segzero_ros.models.hub import cache_folder

    profile = load_profile(arguments.profile)
    parts = list(_parts(profile))
    if arguments.to is not None:
        _check_target(arguments.to, [role for role, *_ in parts])
    missing = 0
    for role, name, revision, subfolder in parts:
        missing += _announce(role, name, revision, subfolder)
    if arguments.dry_run:
        return 0
    _check_room(missing, cache_folder())
    folders = {}
    for role, name, revision, subfolder in parts:
        folders[role] = _fetched(role, name, revision, subfolder)
        print(f"{role}: {clean(folders[role])}")
    if arguments.to is not None:
        _check_room(sum(p.stat().st_size for f in folders.values() for p in f.iterdir() if p.is_file()), arguments.to)
        _copy(folders, arguments.to)
        print(f"copy {clean(arguments.to)} to the robot, and start the node there:")
        places = " ".join(f"-p {role}:={clean(arguments.to)}/{role}" for role in folders)
        print(f"  ros2 run segzero_ros segzero --ros-args -p profile:={arguments.profile} -p offline:=true {places}")
    return 0


def _parts(profile: Profile) -> Any:
    """(role, name, revision, subfolder) of each checkpoint."""
    if is_address(profile.reasoner):
        print(f"reasoner {shown_address(profile.reasoner)}: a server has it; nothing to fetch")
    else:
        yield "reasoner", profile.reasoner, profile.reasoner_revision, profile.subfolder
    if profile.adapter:
        yield "adapter", profile.adapter, profile.adapter_revision, profile.adapter_subfolder
    yield "segmenter", profile.segmenter, profile.segmenter_revision, None


def _announce(role: str, name: str, revision: str | None, subfolder: str | None) -> int:
    """Says what it is and how large; the bytes that are to be fetched."""
    from segzero_ros.models import checkpoints, hub

    try:
        checkpoints.resolve(name, role, revision=revision, subfolder=subfolder, offline=True)
        print(f"{role} {name}: on this disk")
        return 0
    except SegzeroError:
        if not hub.is_name(name):
            raise
    files = hub.sizes(name, revision, subfolder)
    if not any(n.endswith(".safetensors") for n in files):
        raise SegzeroError(Status.NOT_READY, f"{name} holds no .safetensors file; others are not loaded")
    licence = hub.licence_of(name) or "not stated"
    whole = sum(size for size, _ in files.values())
    missing = sum(size for size, here in files.values() if not here)
    print(f"{role} {name}: licence {licence}; {whole / 1e9:.2f} GB in {len(files)} files, {missing / 1e9:.2f} to fetch")
    for file, (size, here) in sorted(files.items()):
        print(f"    {size / 1e6:10.1f} MB  {clean(file)}{'  (here)' if here else ''}")
    return missing


def _check_room(missing: int, folder: Path) -> None:
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free
    if missing + SPARE * bool(missing) > free:
        raise SegzeroError(
            Status.NOT_READY,
            f"{missing / 1e9:.2f} GB are to be fetched, and {free / 1e9:.2f} are free in {folder}; make room,"
            " or set HF_HOME to another disk",
        )


def _fetched(role: str, name: str, revision: str | None, subfolder: str | None) -> Path:
    from tqdm import tqdm

    from segzero_ros.models import checkpoints

    with tqdm(total=100, desc=role, bar_format="{desc} |{bar}| {n:.1f} %  {elapsed}", file=sys.stderr) as bar:
        folder = checkpoints.resolve(
            name, role, revision=revision, subfolder=subfolder, on_progress=lambda s: bar.update(100 * s - bar.n)
        )
        bar.update(100 - bar.n)
    return folder


def _check_target(target: Path, roles: list[str]) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SegzeroError(Status.NOT_READY, f"--to {clean(target)[:200]} cannot be written: {why}") from error
    for role in roles:
        if (target / role).exists():
            raise SegzeroError(Status.NOT_READY, f"{clean(target / role)[:200]} is there already; remove it first")


def _copy(folders: dict[str, Path], target: Path) -> None:
    """Plain files: the cache has links. Each checkpoint is whole, or not there."""
    from segzero_ros.models import checkpoints

    for role, folder in folders.items():
        aside = Path(tempfile.mkdtemp(prefix=f".{role}-", dir=target))
        try:
            for file in sorted(p for p in folder.iterdir() if p.is_file()):
                shutil.copyfile(file, aside / file.name)
            checkpoints.check(aside, role)
            os.chmod(aside, 0o755)
            os.replace(aside, target / role)
        except OSError as error:
            raise SegzeroError(Status.NOT_READY, f"{target} cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
