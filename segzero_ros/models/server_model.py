"""One model of a server: found in its list, asked with bodies of our own, many at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import httpx2

from segzero_ros.core.contract import Cancel, Sampling, SegzeroError, Status
from segzero_ros.core.profile import Profile
from segzero_ros.core.prompt import build_prompt
from segzero_ros.core.text import one_line
from segzero_ros.models.cancellable import all_or_none
from segzero_ros.models.prompt_tokens import spell_out
from segzero_ros.models.server_answers import ServerAnswer
from segzero_ros.models.server_client import ServerClient
from segzero_ros.models.server_events import broken
from segzero_ros.models.server_failures import ServerError
from segzero_ros.models.server_requests import Body, new_turn

log = logging.getLogger(__name__)

NAMES = 5  # models that a sentence names


class ServedModel:
    """name: "" until it is found. context: tokens that prompt and answer may have together; 0: the server does not say.

    Thread-safe once it was connected and tried.
    """

    def __init__(self, client: ServerClient, profile: Profile) -> None:
        self.client, self._profile = client, profile
        self.name = client.address.model
        self.context = 0
        self._neutral = True  # whether the server takes NEUTRAL

    def connect(self, cancel: Cancel | None = None) -> None:
        """Finds the model that is meant. Raises SegzeroError."""
        found: dict[str, int] = {}

        async def ask(connections: httpx2.AsyncClient) -> None:
            try:
                found.update(await self.client.list_models(connections))
            except ServerError as error:
                if error.code != 404 or not self.name:  # a server without a list, and the model was named
                    raise

        if not self.client.run(ask, cancel):
            raise SegzeroError(Status.CANCELLED, "the load was cancelled")
        base, names = self.client.address.base, _listed(found)
        if self.name and found and self.name not in found:
            raise broken(f"{base} has no model {one_line(self.name, 80)}; it serves {names}")
        if not self.name and len(found) != 1:
            what = f"serves {len(found)} models ({names}); choose" if found else "names no model; give"
            raise broken(f"{base} {what} one: {base}#NAME")
        self.name = self.name or next(iter(found))
        self.context = found.get(self.name, 0)

    def question(self, limit: int, words: str = "x") -> Body:
        """Words without a picture, to try the server with."""
        return self.body(None, spell_out(build_prompt(self._profile, words)), limit)

    def body(
        self, picture: str | None, words: str, limit: int, sampling: Sampling | None = None, index: int = 0
    ) -> Body:
        return new_turn(
            self._profile, self.name, picture, words, limit, sampling=sampling, index=index, neutral=self._neutral
        )

    def ask_neutrally(self, bodies: Callable[[], list[Body]], cancel: Cancel | None) -> list[ServerAnswer]:
        """Finds out whether the server takes NEUTRAL."""
        try:
            return self.ask_bodies(bodies(), cancel)
        except ServerError as error:
            if error.code not in (400, 422):
                raise
            self._neutral = False
            try:
                answers = self.ask_bodies(bodies(), cancel)
            except SegzeroError:
                raise error from None
            log.warning("%s takes no repetition_penalty; its own sampling settings hold", self.client.address.base)
            return answers

    def ask_bodies(self, bodies: list[Body], cancel: Cancel | None) -> list[ServerAnswer]:
        """The texts as they come, of which nothing is checked. Raises SegzeroError, also where the flag is set."""
        answers = [ServerAnswer("", body, cancel=cancel) for body in bodies]
        self.ask_all(answers, cancel)
        if not all(a.done for a in answers):
            raise SegzeroError(Status.CANCELLED, "the load was cancelled")
        return answers

    def ask_all(self, answers: Sequence[ServerAnswer], cancel: Cancel | None) -> None:
        """All at once, until all are answered, one fails or the flag is set; then no connection stays."""

        async def ask(connections: httpx2.AsyncClient) -> None:
            await all_or_none(self._ask(connections, answer) for answer in answers)

        self.client.run(ask, cancel)

    async def _ask(self, connections: httpx2.AsyncClient, answer: ServerAnswer) -> None:
        try:
            await answer.ask(self.client, connections)
        except ServerError as error:
            if error.code != 404:
                raise
            names = _listed(await self.client.list_models(connections))
            raise broken(f"{error.message}; it serves {names}, and {one_line(self.name, 80)} was asked") from None


def _listed(models: dict[str, int]) -> str:
    names = [one_line(name, 80) for name in list(models)[:NAMES]]
    return ", ".join(names) + (", ..." if len(models) > NAMES else "") if names else "no model"
