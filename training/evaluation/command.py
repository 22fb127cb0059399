"""How the commands that ask a model end: a sentence and an exit code instead of a trace."""

from __future__ import annotations

import sys
from collections.abc import Callable

from segzero_ros.core.contract import SegzeroError
from segzero_ros.profiles import ProfileError


def ended(name: str, run: Callable[[], int]) -> int:
    """The exit code of `run`; 2 for what is wrong with the call or its files, 130 when it is interrupted."""
    try:
        return run()
    except (ProfileError, SegzeroError, ValueError, OSError) as error:  # RecordsError is a ValueError
        print(f"segzero-train {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"segzero-train {name}: interrupted; with --records the same call continues", file=sys.stderr)
        return 130
