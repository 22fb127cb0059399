"""The command `segzero profiles`: the shipped profiles, a line each, with their checkpoints and licence."""

from __future__ import annotations

import argparse
from typing import Any

from segzero_ros.profiles import list_profiles


def add_parser(commands: Any) -> None:
    commands.add_parser("profiles", help="list the profiles")


def run(arguments: argparse.Namespace) -> int:
    for p in list_profiles():
        adapter = f" with {p.adapter}" if p.adapter else ""
        print(f"{p.name:16} {p.description}")
        print(f"{'':16} {p.reasoner}{adapter} + {p.segmenter}  [{p.licence or 'licence not stated'}]")
    return 0
