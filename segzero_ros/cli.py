"""The command `segzero`: segment pictures, rehearse and fetch checkpoints, look at the installation. Works without ROS.

Exit codes: 0 an answer ("nothing matches" is one), 1 no answer or a failed check, 2 wrong use, 130 interrupted.
Nothing else is imported before `main`, so that an interruption of the imports is a line, too.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from segzero_ros.process import INTERRUPTED, ForgivingStream, end_at_once

CLOSED_PIPE = 141  # as if SIGPIPE had ended it: whoever reads has had enough
MODULES = {
    "segment": "segzero_ros.segment_command",
    "doctor": "segzero_ros.doctor",
    "profiles": "segzero_ros.profiles_command",
    "rehearse": "segzero_ros.rehearse.command",
    "fetch": "segzero_ros.fetch",
    "serve": "segzero_ros.serve",
}


def main(argv: Sequence[str] | None = None) -> int:
    if argv is None:
        _open_standard_streams()
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return CLOSED_PIPE
    except OSError as error:  # standard output on a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _complain(f"the output could not be written: {error.strerror or error}", 1)
    except ModuleNotFoundError as error:
        return _complain(f"the Python module {error.name} is missing; `segzero doctor` says what to install", 1)
    except ImportError as error:
        sentence = " ".join(str(error).split())[:300]
        return _complain(f"the installation is broken: {sentence}; `segzero doctor` says where", 1)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    finally:
        if argv is None:  # all is said: an interruption of Python's own end would only show a traceback
            import signal

            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(argv: Sequence[str] | None) -> int:
    with end_at_once(argv is None):
        import argparse
        import importlib

        from segzero_ros import __version__

        parser = argparse.ArgumentParser(prog="segzero", description="An instruction in, masks out.")
        parser.add_argument("--version", action="version", version=f"segzero_ros {__version__}")
        commands = parser.add_subparsers(dest="command", required=True)
        words, passed = _split(sys.argv[1:] if argv is None else argv)
        # Of a known command only its own module: `segzero doctor` is for installations in which others fail.
        wanted = words[:1] if words and words[0] in MODULES else MODULES
        modules = {name: importlib.import_module(MODULES[name]) for name in wanted}
        for module in modules.values():
            module.add_parser(commands)
        arguments = parser.parse_args(words, argparse.Namespace(passed=passed))
    try:
        return int(modules[arguments.command].run(arguments))
    except (OSError, ImportError):
        raise
    except Exception as error:
        return _explain(error)


def _split(words: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """`segzero serve` hands what stands behind -- to vLLM, untouched."""
    if words and words[0] == "serve" and "--" in words:
        at = list(words).index("--")
        return words[:at], list(words[at + 1 :])
    return words, []


def _explain(error: Exception) -> int:
    from segzero_ros.core.contract import SegzeroError
    from segzero_ros.core.text import first_line, one_line
    from segzero_ros.profiles import ProfileError
    from segzero_ros.segment_command import WrongUse

    if isinstance(error, (ProfileError, WrongUse)):
        return _complain(one_line(error, 600), 2)
    if isinstance(error, SegzeroError):
        return _complain(f"{error.status.value}: {one_line(error.message, 900)}", 1)
    if isinstance(error, MemoryError):
        return _complain("OUT_OF_MEMORY: there is not enough memory", 1)
    if os.environ.get("SEGZERO_TRACE"):
        raise error
    return _complain(f"{type(error).__name__}: {first_line(error)} (SEGZERO_TRACE=1 shows where)", 1)


def _open_standard_streams() -> None:
    """A closed one would be given to the next file that is opened, which then receives what is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know ASCII alone
    sys.stderr = ForgivingStream(sys.stderr)  # type: ignore[assignment]


def _complain(sentence: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"segzero: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
