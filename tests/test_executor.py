"""The node's executor on real DDS: what waits stops nothing else, and waiting costs nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from std_msgs.msg import String
from std_srvs.srv import Trigger

from segzero_ros.ros.executor import Executor

PATIENCE = 30.0  # seconds; only a failing test waits so long


class Counting(Executor):
    turns = 0

    def spin_once(self, timeout_sec: float | None = None) -> None:
        self.turns += 1
        super().spin_once(timeout_sec)


class Bench:
    """A node with a service that waits for `release`, in a group of its own, and a subscription."""

    def __init__(self, threads: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node(f"bench_{threads}", context=self.context)
        self.release, self.waiting, self.heard = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
        self.clients = [self._service(f"wait_{n}") for n in range(3)]
        self.node.create_subscription(String, "heard", lambda _: self.heard.release(), 10)
        self.say = self.node.create_publisher(String, "heard", 10)
        self.executor = Counting(threads, context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin)
        self.thread.start()

    def _service(self, name: str) -> Any:
        def wait(_: Any, response: Any) -> Any:
            self.waiting.release()
            response.success = self.release.wait(PATIENCE)
            return response

        self.node.create_service(Trigger, name, wait, callback_group=MutuallyExclusiveCallbackGroup())
        return self.node.create_client(Trigger, name, callback_group=MutuallyExclusiveCallbackGroup())

    def call(self, client: Any) -> Any:
        assert client.wait_for_service(PATIENCE)
        return client.call_async(Trigger.Request())

    def close(self) -> None:
        self.release.set()
        self.executor.shutdown()
        self.thread.join(PATIENCE)
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


def until(right: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not right():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("bench", [3], indirect=True)
def test_three_waiting_services_do_not_stop_a_subscription(bench: Bench) -> None:
    answers = [bench.call(client) for client in bench.clients]
    for _ in answers:
        assert bench.waiting.acquire(timeout=PATIENCE)
    for _ in range(5):
        bench.say.publish(String())
        assert bench.heard.acquire(timeout=PATIENCE)
    assert not any(a.done() for a in answers)
    bench.release.set()
    until(lambda: all(a.done() for a in answers))
    assert all(a.result().success for a in answers)


@pytest.mark.parametrize("bench", [1], indirect=True)
def test_a_callback_without_a_thread_waits_quietly(bench: Bench) -> None:
    answers = [bench.call(client) for client in bench.clients]
    assert bench.waiting.acquire(timeout=PATIENCE)
    before = bench.executor.turns
    for _ in range(10):
        bench.say.publish(String())
        assert bench.heard.acquire(timeout=PATIENCE)
    # rclpy's own executor turns without a pause here, and no message gets through.
    assert bench.executor.turns - before < 300
    bench.release.set()
    until(lambda: all(a.done() for a in answers))


@pytest.mark.parametrize("busy", [False, True], ids=["waiting", "in a callback"])
def test_shutdown_returns_when_the_spinning_has_ended(busy: bool) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("ending", context=context)
    begun, inside = threading.Event(), threading.Event()

    class Watched(Executor):
        def spin_once(self, timeout_sec: float | None = None) -> None:
            inside.set()
            begun.set()
            super().spin_once(timeout_sec)
            inside.clear()

    executor = Watched(1, context=context)
    executor.add_node(node)
    held, running = threading.Event(), threading.Event()

    def hold() -> None:
        running.set()
        held.wait()

    if busy:
        executor.create_task(hold)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    assert begun.wait(PATIENCE)
    if busy:
        assert running.wait(PATIENCE)
        assert not executor.shutdown(timeout_sec=0), "a callback is running"
        held.set()
    assert executor.shutdown(timeout_sec=PATIENCE)
    assert not inside.is_set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert executor.shutdown(), "twice is once"
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_a_task_without_an_entity_stops_nothing_else_and_shutdown_waits_for_it() -> None:
    """An action's goal is such a task."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("tasks", context=context)
    ticks, held, running = threading.Semaphore(0), threading.Event(), threading.Event()
    node.create_timer(0.01, ticks.release)
    executor = Executor(3, context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()

    def hold() -> None:
        running.set()
        held.wait()

    executor.create_task(hold)
    assert running.wait(PATIENCE)
    while ticks.acquire(blocking=False):  # of the time before
        pass
    for _ in range(5):
        assert ticks.acquire(timeout=PATIENCE)
    assert not executor.shutdown(timeout_sec=0), "a task is running"
    held.set()
    assert executor.shutdown(timeout_sec=PATIENCE)
    thread.join(PATIENCE)
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_what_a_callback_raises_is_logged_with_its_trace_and_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segzero_ros.ros.executor.QUIET", 10 * PATIENCE)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("raising", context=context)
    raised, heard = threading.Semaphore(0), threading.Semaphore(0)

    def fail(*_: Any) -> None:
        raised.release()
        raise RuntimeError("on purpose")

    node.create_timer(0.01, fail)
    node.create_subscription(String, "raising", fail, 10)
    node.create_subscription(String, "heard", lambda _: heard.release(), 10)
    raising, say = node.create_publisher(String, "raising", 10), node.create_publisher(String, "heard", 10)
    executor = Executor(1, context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    for _ in range(10):
        assert raised.acquire(timeout=PATIENCE)
    for _ in range(3):
        raising.publish(String())
        say.publish(String())
        assert heard.acquire(timeout=PATIENCE)
    executor.shutdown()
    thread.join(PATIENCE)
    said = [r for r in caplog.records if r.exc_info and "on purpose" in str(r.exc_info[1])]
    assert len(said) == 1, "the same error is logged once in a while"
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_a_message_that_cannot_be_taken_leaves_its_subscription_alive(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("taking", context=context)
    heard = threading.Semaphore(0)
    node.create_subscription(String, "heard", lambda _: heard.release(), 10)
    say = node.create_publisher(String, "heard", 10)
    executor = Executor(1, context=context)
    take, failed = executor._take_subscription, threading.Event()

    def once(subscription: Any) -> Any:
        if failed.is_set():
            return take(subscription)
        take(subscription)
        failed.set()
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setattr(executor, "_take_subscription", once)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    while not failed.is_set():
        say.publish(String())
        failed.wait(0.05)
    until(lambda: say.publish(String()) or heard.acquire(timeout=0.05))  # type: ignore[func-returns-value]
    executor.shutdown()
    thread.join(PATIENCE)
    node.destroy_node()
    rclpy.shutdown(context=context)
