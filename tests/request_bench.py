"""Requests of an active node with loaded models, with plain fakes around and a clock that is set by hand."""

from __future__ import annotations

from typing import Any

from segzero_ros.core.contract import Cancel, Segmentation, Status
from segzero_ros.core.requests import Requests
from segzero_ros.core.tickets import Asker, Rules, Ticket

TOPIC = Asker.TOPIC


class Bench:
    """What was delivered is in `delivered`."""

    def __init__(self, **rules: Any) -> None:
        self.now = 100.0
        self.rules = Rules(**rules)
        self.delivered: list[Ticket] = []
        self.cancels = 0
        self.stop = Cancel()
        self.requests = Requests(lambda: self.rules, self.delivered.append, self._cancelled, lambda: self.now)
        self.requests.open()
        self.requests.models("")

    def _cancelled(self) -> None:
        self.cancels += 1

    def ask(self, text: str = "mug", by: Asker = TOPIC, **more: Any) -> Ticket:
        ticket = self.requests.ask(text, by, **more).ticket
        assert ticket is not None, "it was taken for a repetition"
        return ticket

    def take(self) -> Ticket:
        ticket = self.requests.take(self.stop)
        assert ticket is not None
        return ticket

    def answer(self, ticket: Ticket, status: Status = Status.OK, message: str = "") -> None:
        self.requests.finish(ticket, Segmentation(status, message, ticket.instruction, 0, 0))

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.requests.expire()

    def said(self) -> list[tuple[str, Status]]:
        return [(t.instruction, t.result.status) for t in self.delivered if t.result]
