"""The process `segzero`: arguments, signals, the executor's thread, and an orderly end.

Whatever is wrong before the node exists is one sentence and exit code 1. After that only a signal ends the process.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segzero_ros.core.text import clean, first_line

STOPS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
EXIT_DEADLINE = 1.5  # seconds for requests, outputs and the worker to end after one of them
LEAVE_DEADLINE = 2.0  # seconds for ROS to end after that; launch waits 5 s for both before it presses
RMW_INDEX = "share/ament_index/resource_index/rmw_typesupport"
THREADS = 24  # calls of ~/segment that wait, and services, timers and transitions beside them
MISSING = {  # what to do about a missing module, by its first name
    "rclpy": "source /opt/ros/DISTRO/setup.bash",
    "segzero_msgs": "colcon build, then source install/setup.bash",
}


def main(args: list[str] | None = None) -> int:
    args = sys.argv if args is None else args
    # Block signals in all threads; this one waits with sigwait, so that nothing is interrupted in the middle.
    stops = set(STOPS)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup; a signal that is blocked is not ignored
        stops.remove(signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    for number in stops:  # a shell starts background jobs with SIGINT ignored, and that would never be waited for
        signal.signal(number, signal.SIG_DFL)
    logging.basicConfig(level=logging.WARNING, format="[%(levelname)s] [%(name)s]: %(message)s")
    try:
        with _held_back_stderr():
            node = _started(args)
    except Exception as error:
        if any("debug" in argument.lower() for argument in args):
            traceback.print_exc()
        print(f"segzero: {_sentence(error)}", file=sys.stderr)
        return 1
    if node is None:
        return 0
    _run(node, stops)
    return 0  # not reached


def _started(args: list[str]) -> Any:
    """The node, or None after --help. Raises whatever hinders."""
    for argument in args:
        if clean(argument) != argument:
            raise ValueError(f"the argument {clean(argument)!r} is not UTF-8")
    _check_environment(os.environ)
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    if why := broken_rclpy(rclpy.__file__):
        raise ValueError(why)
    from rclpy.utilities import remove_ros_args

    from segzero_ros.ros import parameters

    for path in parameters.files_in(args):
        parameters.check_file(path)
    own = remove_ros_args(args)[1:] if "--ros-args" in args else args[1:]
    if {"-h", "--help"} & set(own):
        print(parameters.usage())
        return None
    if own:
        raise ValueError(f"unknown arguments {' '.join(own)}; parameters are given by --ros-args -p NAME:=VALUE")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # ~/state has the progress
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        from segzero_ros.ros.node import SegzeroNode

        if rclpy.logging.get_logger_effective_level("segzero") <= rclpy.logging.LoggingSeverity.DEBUG:
            logging.getLogger("segzero_ros").setLevel(logging.DEBUG)
        node = SegzeroNode()
        for path in parameters.files_in(args):
            parameters.warn_unmatched(node, path)
        return node
    except BaseException:
        rclpy.try_shutdown()
        raise


def _check_environment(environment: Mapping[str, str]) -> None:
    """Raises ValueError for settings that end the process inside a C library, without an exception."""
    domain = environment.get("ROS_DOMAIN_ID", "")
    if domain and not (domain.isascii() and domain.isdigit() and int(domain) <= 232):
        raise ValueError(f"ROS_DOMAIN_ID is {domain!r}; it is a number from 0 to 232")
    home = environment.get("ROS_HOME") or os.path.expanduser("~/.ros")
    log = environment.get("ROS_LOG_DIR") or os.path.join(home, "log")
    try:
        os.makedirs(os.path.expanduser(log), exist_ok=True)
        if not os.access(os.path.expanduser(log), os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ValueError(f"the log folder {log} cannot be written ({error.strerror}); set ROS_LOG_DIR") from error
    rmw = environment.get("RMW_IMPLEMENTATION", "")
    index = [Path(p) / RMW_INDEX for p in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    installed = {path.name for folder in index if folder.is_dir() for path in folder.iterdir()} - {"rmw_implementation"}
    if rmw and installed and rmw not in installed:
        raise ValueError(f"RMW_IMPLEMENTATION is {rmw!r}, which is not installed; here: {', '.join(sorted(installed))}")


def broken_rclpy(file: str) -> str:
    """Why the rclpy whose __init__.py this is cannot serve actions, or ""; nothing is known where it tells no version.

    7.1.9 mixes the results of goals under executors with threads (ros2/rclpy #1598).
    """
    for folder in Path(file).parents:
        with contextlib.suppress(OSError):
            text = (folder / "share" / "rclpy" / "package.xml").read_text(encoding="utf-8", errors="replace")
            broken = "<version>7.1.9</version>" in "".join(text.split())
            return "rclpy 7.1.9 mixes up the results of actions; take 7.1.10 or newer" if broken else ""
    return ""


def _run(node: Any, stops: set[signal.Signals]) -> None:
    """Spins until a signal comes, then ends the process."""
    import rclpy
    from rclpy.executors import ExternalShutdownException

    from segzero_ros.ros.executor import Executor

    executor = Executor(THREADS)
    executor.add_node(node)

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            pass
        except Exception:
            if rclpy.ok():
                logging.exception("the executor ended")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=spin, name="segzero-executor", daemon=True)
    thread.start()
    signal.sigwait(stops)
    node.close(EXIT_DEADLINE)
    # DDS leaves shared memory behind unless its participant ends; in a thread, since it may hang.
    leave = threading.Thread(target=_leave, args=(executor, thread, node), daemon=True)
    leave.start()
    leave.join(LEAVE_DEADLINE)
    sys.stdout.flush()
    sys.stderr.flush()
    # A load inside torch cannot be interrupted, and interpreter shutdown under a running thread may abort; what was
    # published has been handed to DDS by now.
    os._exit(node.exit_code)


def _leave(executor: Any, spinning: threading.Thread, node: Any) -> None:
    import rclpy

    executor.shutdown(timeout_sec=LEAVE_DEADLINE)
    spinning.join(LEAVE_DEADLINE)
    if not spinning.is_alive():
        node.destroy_node()
        rclpy.try_shutdown()


def _sentence(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        name = error.name.partition(".")[0]
        return f"the Python module {name} is missing: {MISSING.get(name, _pip(name))}"
    if isinstance(error, ImportError):
        return clean(f"{error}; `segzero doctor` checks the installation")
    if type(error).__name__ == "UnknownROSArgsError":
        return clean(f"unknown ROS arguments: {str(error).strip('[]')}")
    return first_line(error)


def _pip(module: str) -> str:
    package = {"cv2": "opencv-python-headless", "yaml": "PyYAML", "PIL": "pillow"}.get(module, module)
    return f"pip install {package}, or start the node with the virtual environment's interpreter (python:=...)"


@contextlib.contextmanager
def _held_back_stderr() -> Iterator[None]:
    """What the C libraries print is shown when all went well; beside a failure's sentence it would say it twice."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        saved = os.dup(2)
        os.dup2(held.fileno(), 2)
        failed = False
        try:
            yield
        except BaseException:
            failed = True
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            if not failed:
                os.write(2, held.read())
