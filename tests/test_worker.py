"""The thread that owns the models: it cannot die unseen, and tells nothing after it was stopped."""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from segzero_ros.core.contract import Segmentation, SegzeroError, Status
from segzero_ros.core.requests import Requests
from segzero_ros.core.tickets import Asker, Ticket
from segzero_ros.worker import Snapshot, State, Worker

PATIENCE = 30.0  # seconds; only a failing test waits so long


class Bench:
    """Requests, a worker on them, and what it told."""

    def __init__(self) -> None:
        self.requests = Requests()
        self.requests.open()
        self.told: queue.Queue[Snapshot] = queue.Queue()
        self.released = threading.Semaphore(0)
        self.workers: list[Worker] = []

    def work(self, load: Callable[..., Any] | None = None, serve: Callable[..., Segmentation] | None = None) -> Worker:
        def answer(models: Any, ticket: Ticket, on_state: Any) -> Segmentation:
            return Segmentation(Status.OK, str(models), ticket.instruction, 0, 0)

        worker = Worker(
            self.requests,
            load or (lambda on_progress, cancel: "models"),
            serve or answer,
            self.told.put,
            lambda models: self.requests.models(""),
            self.released.release,
            after=self.workers[-1] if self.workers else None,
        )
        self.workers.append(worker)
        worker.start()
        return worker

    def call(self, text: str = "mug") -> Segmentation:
        self.until(State.READY)
        ticket = self.requests.ask(text, Asker.SERVICE).ticket
        assert ticket
        return self.requests.wait(ticket)

    def until(self, state: State) -> Snapshot:
        while (snapshot := self.told.get(timeout=PATIENCE)).state is not state:
            pass
        self.told.put(snapshot)
        return snapshot


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.requests.close("the test is over")
    for worker in made.workers:
        worker.stop()
        assert worker.join(PATIENCE)


def test_it_loads_in_the_background_with_progress_and_says_when_it_is_ready(bench: Bench) -> None:
    def load(on_progress: Any, cancel: Any) -> str:
        on_progress(0.5, "half")
        return "models"

    bench.work(load)
    told = [bench.told.get(timeout=PATIENCE) for _ in range(3)]
    assert [s.state for s in told] == [State.LOADING, State.LOADING, State.READY]
    assert told[1].progress == 0.5


@pytest.mark.parametrize("error", [OSError("no such weights"), SegzeroError(Status.NOT_READY, "no such weights")])
def test_a_failed_load_is_told_with_its_reason_and_ends_the_thread(bench: Bench, error: Exception) -> None:
    def load(on_progress: Any, cancel: Any) -> None:
        raise error

    worker = bench.work(load)
    assert "no such weights" in bench.until(State.FAILED).message
    assert worker.join(PATIENCE)


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyError("boom"), SystemExit("boom"), RecursionError("boom")])
def test_whatever_serving_raises_ends_that_request_with_a_status_and_a_trace(
    bench: Bench, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def serve(models: Any, ticket: Ticket, on_state: Any) -> Segmentation:
        if ticket.instruction == "bad":
            raise error
        return Segmentation(Status.OK, "", ticket.instruction, 0, 0)

    bench.work(serve=serve)
    with caplog.at_level(logging.ERROR):
        failed = bench.call("bad")
    assert failed.status is Status.BACKEND_ERROR and "boom" in failed.message
    assert any(r.exc_info and r.exc_info[1] is error for r in caplog.records)
    assert bench.call("good").status is Status.OK


def test_a_state_that_cannot_be_told_stops_nothing(bench: Bench) -> None:
    def on_state(snapshot: Snapshot) -> None:
        told.release()
        raise RuntimeError("the middleware is gone")

    told = threading.Semaphore(0)
    worker = Worker(
        bench.requests,
        lambda on_progress, cancel: "models",
        lambda models, ticket, tell: Segmentation(Status.OK, "", ticket.instruction, 0, 0),
        on_state,
        lambda models: bench.requests.models(""),
    )
    bench.workers.append(worker)
    worker.start()
    for _ in range(2):
        assert told.acquire(timeout=PATIENCE)
    ticket = bench.requests.ask("mug", Asker.TOPIC).ticket
    assert ticket and bench.requests.wait(ticket).status is Status.OK


def test_memory_is_given_back_after_a_request_found_none_and_at_the_end(bench: Bench) -> None:
    def serve(models: Any, ticket: Ticket, on_state: Any) -> Segmentation:
        raise MemoryError

    worker = bench.work(serve=serve)
    assert bench.call().status is Status.OUT_OF_MEMORY
    assert bench.released.acquire(timeout=PATIENCE)
    worker.stop()
    assert worker.join(PATIENCE) and bench.released.acquire(blocking=False)


def test_a_load_that_ends_after_the_stop_tells_nothing_and_the_next_one_waits_for_it(bench: Bench) -> None:
    loading, go_on = threading.Event(), threading.Event()
    loaded: list[str] = []

    def load(on_progress: Any, cancel: Any) -> str:
        loading.set()
        assert go_on.wait(PATIENCE)
        on_progress(1.0, "loaded too late")
        return "old models"

    worker = Worker(bench.requests, load, lambda *a: None, bench.told.put, loaded.append)  # type: ignore[arg-type,return-value]
    bench.workers.append(worker)
    worker.start()
    assert loading.wait(PATIENCE)
    worker.stop()
    bench.work()
    go_on.set()
    assert bench.call().message == "models"
    assert loaded == []
    messages = []
    while not bench.told.empty():
        messages.append(bench.told.get().message)
    assert "loaded too late" not in messages


class Tensor:
    """Stands for the memory of a device."""


def dead_at_release(bench: Bench, load: Callable[..., Any], serve: Callable[..., Any], held: list[Any]) -> list[bool]:
    """Per call of release: whether nothing holds any longer what `held` refers to."""
    found: list[bool] = []

    def release() -> None:
        found.append(all(tensor() is None for tensor in held))
        bench.released.release()

    def loaded(models: Any) -> None:
        bench.requests.models("")

    worker = Worker(bench.requests, load, serve, bench.told.put, loaded, release)
    bench.workers.append(worker)
    worker.start()
    return found


def test_what_a_request_without_memory_held_is_let_go_before_the_memory_is_given_back(bench: Bench) -> None:
    held: list[Any] = []

    def serve(models: Any, ticket: Ticket, on_state: Any) -> Segmentation:
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise MemoryError

    found = dead_at_release(bench, lambda on_progress, cancel: "models", serve, held)
    assert bench.call().status is Status.OUT_OF_MEMORY
    assert bench.released.acquire(timeout=PATIENCE) and found == [True]


def test_what_a_failed_load_held_is_let_go_before_the_memory_is_given_back(bench: Bench) -> None:
    held: list[Any] = []

    def move() -> None:
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise RuntimeError("CUDA out of memory")

    def load(on_progress: Any, cancel: Any) -> None:
        try:
            move()
        except RuntimeError as error:
            raise kept.setdefault("error", SegzeroError(Status.OUT_OF_MEMORY, "does not fit")) from error

    kept: dict[str, SegzeroError] = {}  # as a log handler would
    found = dead_at_release(bench, load, lambda *a: None, held)  # type: ignore[arg-type,return-value]
    assert bench.released.acquire(timeout=PATIENCE) and found == [True] and kept


def test_models_that_are_dropped_are_let_go_before_the_memory_is_given_back(bench: Bench) -> None:
    held: list[Any] = []

    def load(on_progress: Any, cancel: Any) -> Tensor:
        models = Tensor()
        held.append(weakref.ref(models))
        return models

    def serve(models: Any, ticket: Ticket, on_state: Any) -> Segmentation:
        return Segmentation(Status.OK, "", ticket.instruction, 0, 0)

    found = dead_at_release(bench, load, serve, held)
    assert bench.call().status is Status.OK and held[0]() is not None
    bench.workers[0].stop()
    assert bench.released.acquire(timeout=PATIENCE) and found == [True]


class Lost:
    """Models whose device is gone after the first request."""

    lost = ""


def test_a_lost_device_ends_the_thread_after_the_request_has_its_answer(bench: Bench) -> None:
    told: queue.Queue[str] = queue.Queue()
    models = Lost()

    def serve(models: Any, ticket: Ticket, on_state: Any) -> Segmentation:
        models.lost = "the GPU's context is lost"
        return Segmentation(Status.BACKEND_ERROR, models.lost, ticket.instruction, 0, 0)

    worker = Worker(
        bench.requests,
        lambda on_progress, cancel: models,
        serve,
        bench.told.put,
        lambda models: bench.requests.models(""),
        on_lost=told.put,
    )
    worker.start()
    assert bench.call().status is Status.BACKEND_ERROR
    assert told.get(timeout=PATIENCE) == models.lost
    assert worker.join(PATIENCE)


def test_a_device_that_is_lost_while_models_load_is_told_too(bench: Bench) -> None:
    told: queue.Queue[str] = queue.Queue()

    def load(on_progress: Any, cancel: Any) -> Any:
        try:
            raise RuntimeError("CUDA error: device-side assert triggered")
        except RuntimeError as error:
            raise SegzeroError(Status.NOT_READY, "could not load it") from error

    worker = Worker(
        bench.requests, load, lambda *_: Segmentation(Status.OK, "", "", 0, 0), bench.told.put, on_lost=told.put
    )
    worker.start()
    assert told.get(timeout=PATIENCE) == "could not load it"
    assert bench.until(State.FAILED).message == "could not load it"


def test_a_device_that_is_lost_outside_the_pipeline_ends_the_thread_too(bench: Bench) -> None:
    told: queue.Queue[str] = queue.Queue()

    def serve(models: Any, ticket: Ticket, on_state: Any) -> Segmentation:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def loaded(models: Any) -> None:
        bench.requests.models("")

    worker = Worker(bench.requests, lambda *_: "models", serve, bench.told.put, loaded, on_lost=told.put)
    worker.start()
    result = bench.call()
    assert result.status is Status.BACKEND_ERROR and result.message == told.get(timeout=PATIENCE)
    assert "started anew" in result.message and worker.join(PATIENCE)
