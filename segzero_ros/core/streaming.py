"""A request as a stream of its events, the request itself in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from segzero_ros.core.contract import Cancel, Done, Event, Queued, Segmentation
from segzero_ros.core.steps import OnEvent


def stream_events(instruction: str, flag: Cancel, answer: Callable[[OnEvent], Segmentation]) -> Iterator[Event]:
    """Queued, then what `answer` tells, then Done with what it returns. Closing the iterator sets the flag."""
    events: queue.Queue[Event] = queue.Queue()
    thread = threading.Thread(target=lambda: events.put(Done(answer(events.put))), daemon=True)
    yield Queued(instruction)
    thread.start()
    try:
        while True:
            event = events.get()
            yield event
            if isinstance(event, Done):
                return
    finally:
        if thread.is_alive():
            flag.set()
        thread.join()
