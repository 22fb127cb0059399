"""One thread, a slot of one, newest wins."""

import queue
import time

from segzero_ros.worker import Request, State, Worker


def start(load=lambda on_progress, cancel: "pipeline", serve=None):
    reports: queue.Queue = queue.Queue()
    answers: queue.Queue = queue.Queue()
    began: queue.Queue = queue.Queue()

    def until_cancelled(pipeline, request):
        began.put(request.instruction)
        return (request.instruction, request.cancel.wait(20))

    worker = Worker(load, serve or until_cancelled, lambda r: (r.instruction, "never ran"), lambda w, r: reports.put(r))
    worker.start()

    def ask(text):
        worker.submit(Request(text, text, time.monotonic() + 20, answers.put))

    return worker, ask, reports, answers, began


def test_it_loads_in_the_background_with_progress_and_says_when_it_is_ready():
    def load(on_progress, cancel):
        on_progress(0.5, "half")
        return "pipeline"

    worker, _, reports, _, _ = start(load)
    states = [reports.get(timeout=10) for _ in range(3)]
    assert [r.state for r in states] == [State.LOADING, State.LOADING, State.READY]
    assert states[1].progress == 0.5
    worker.stop()
    assert worker.join(10)


def test_a_failed_load_is_reported_with_its_reason_and_ends_the_thread():
    def load(on_progress, cancel):
        raise OSError("no such weights")

    worker, _, reports, _, _ = start(load)
    assert reports.get(timeout=10).state is State.LOADING
    failed = reports.get(timeout=10)
    assert failed.state is State.FAILED and "no such weights" in failed.message
    assert worker.join(10)


def test_a_newer_request_cancels_the_running_one_and_replaces_the_waiting_one():
    worker, ask, _, answers, began = start()
    ask("first")
    assert began.get(timeout=10) == "first"
    ask("second")
    assert answers.get(timeout=10) == ("first", True)
    assert began.get(timeout=10) == "second"
    assert worker.cancel()
    assert answers.get(timeout=10) == ("second", True)
    worker.stop()
    assert worker.join(10)


def test_a_request_to_a_stopped_worker_is_answered_as_cancelled():
    worker, ask, _, answers, _ = start()
    worker.stop()
    assert worker.join(10)
    ask("late")
    assert answers.get(timeout=10) == ("late", "never ran")
