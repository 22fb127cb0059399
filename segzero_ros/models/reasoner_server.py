"""The reasoning model behind a URL: squares and prompts in, texts out, by any server of OpenAI's chat completions."""

from __future__ import annotations

import base64
import io
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2
from PIL import Image as PIL

from segzero_ros.core.contract import (
    Cancel,
    Generation,
    Image,
    LoadedModel,
    OnProgress,
    OnText,
    Sampling,
    SegzeroError,
    Status,
    Stopped,
)
from segzero_ros.core.profile import Profile
from segzero_ros.core.text import one_line
from segzero_ros.models.calibration import calibrate
from segzero_ros.models.cancellable import all_or_none
from segzero_ros.models.prompt_tokens import PromptTokens, spell_out
from segzero_ros.models.server_address import Address, read_address
from segzero_ros.models.server_client import CONNECT, SILENCE, ServerClient
from segzero_ros.models.server_events import AnswerText, Piece, broken
from segzero_ros.models.server_failures import ServerError

log = logging.getLogger(__name__)

NAMES = 5  # models that a sentence names
# What a request does not say, vLLM takes from the checkpoint's generation_config.json: there Qwen2.5-VL has a penalty.
NEUTRAL = {"repetition_penalty": 1.0}
NEUTRAL_SAMPLING = {"top_k": -1, "min_p": 0.0}
# Reasons to end that are no answers.
_ENDS = {
    "content_filter": "its filter ended the answer",
    "tool_calls": "it wanted to call a tool; start it without a tool parser",
    "function_call": "it wanted to call a function; start it without a tool parser",
}


def load_server_reasoner(
    profile: Profile,
    url: str,
    *,
    revision: str | None = None,
    adapter: str | None = None,
    on_progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> ServerReasoner:
    """Asks the server for its model, and tries that it sees the profile's square as it is.

    revision, adapter: refused, since a server's weights are chosen where it is started; adapter "none" says that it has
    the profile's adapter already. Raises SegzeroError: CANCELLED, or NOT_READY with a sentence.
    """
    if revision:
        raise _refused("a revision is chosen where the server is started; reasoner_revision goes with no URL")
    if adapter and adapter != "none":
        raise _refused("an adapter is merged where the weights are: start the server with it, or on a merged folder")
    if profile.adapter and adapter != "none":
        raise _refused(
            f"profile {profile.name} wants the adapter {one_line(profile.adapter, 100)}: start the server with it, and"
            " say adapter none here"
        )
    tell = on_progress or (lambda share, what: None)
    reasoner = ServerReasoner(read_address(url), profile)
    base = reasoner.client.address.base
    try:
        tell(0.0, f"asking {base} for its models")
        reasoner.connect(cancel)
        tell(0.5, f"trying whether {base} sees pictures as they are")
        reasoner.calibrate(cancel)
    except SegzeroError as error:
        if error.status is Status.CANCELLED:
            raise
        raise _refused(error.message) from error
    return reasoner


@dataclass
class _Work:
    """One prompt on its way to a text."""

    index: int
    prompt: str
    limit: int  # tokens
    body: dict[str, Any] = field(repr=False)
    text: AnswerText
    tokens: int = 0
    prompt_tokens: int = 0
    first: float = 0.0  # when the first token came, on the clock; 0: none did
    finish: str = ""
    done: bool = False


class ServerReasoner:
    """See contract.Reasoner. Thread-safe: calls share nothing but what the load found out."""

    def __init__(
        self, address: Address, profile: Profile, *, connect_timeout: float = CONNECT, silence: float = SILENCE
    ) -> None:
        self.client = ServerClient(address, connect_timeout=connect_timeout, silence=silence)
        self.profile, self.model = profile, address.model
        self.context = 0  # tokens that prompt and answer may have together; 0: the server does not say
        self.expected: PromptTokens | None = None  # None: not calibrated
        self.info = self._describe()
        self._neutral = True  # whether the server takes NEUTRAL

    def _describe(self) -> LoadedModel:
        name = f"{one_line(self.model, 100)} at {self.client.address.base}"
        return LoadedModel(name=name, revision="", parameters=0, dtype="", device="server", memory_bytes=0)

    def generate(
        self,
        squares: list[Image],
        prompts: list[str],
        *,
        on_text: OnText | None = None,
        cancel: Cancel | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int | None = None,
    ) -> list[Generation]:
        """Greedy unless sampling is given; the prompts of a batch are asked at once, each with a seed of its own.

        on_text(i, piece) as text comes, from this thread. Raises SegzeroError: BACKEND_ERROR, BUSY, TIMEOUT.
        """
        pictures: dict[int, str] = {}  # one image may be asked many times
        works = []
        for i, (square, prompt) in enumerate(zip(squares, prompts, strict=True)):
            if id(square) not in pictures:
                pictures[id(square)] = self._data_url(square)
            limit = max_new_tokens or self.profile.max_new_tokens
            works.append(self._work(i, pictures[id(square)], prompt, limit, sampling))
        began = time.perf_counter()
        if cancel is None or not cancel.is_set():
            self._answer_all(works, on_text, cancel)
        ended = time.perf_counter()
        return [
            Generation(
                text=w.text.text,
                prompt_tokens=w.prompt_tokens,
                completion_tokens=w.tokens,
                truncated=w.done and w.finish == "length",
                cancelled=not w.done,
                first_token=(w.first or ended) - began,
            )
            for w in works
        ]

    def connect(self, cancel: Cancel | None = None) -> None:
        """Finds the model that is meant. Raises SegzeroError."""
        found: dict[str, int] = {}

        async def ask(connections: httpx2.AsyncClient) -> None:
            try:
                found.update(await self.client.list_models(connections))
            except ServerError as error:
                if error.code != 404 or not self.model:  # a server without a list, and the model was named
                    raise

        if not self.client.run(ask, cancel):
            raise SegzeroError(Status.CANCELLED, "the load was cancelled")
        base, names = self.client.address.base, _listed(found)
        if self.model and found and self.model not in found:
            raise broken(f"{base} has no model {one_line(self.model, 80)}; it serves {names}")
        if not self.model and len(found) != 1:
            what = f"serves {len(found)} models ({names}); choose" if found else "names no model; give"
            raise broken(f"{base} {what} one: {base}#NAME")
        self.model = self.model or next(iter(found))
        self.context = found.get(self.model, 0)
        self.info = self._describe()

    def calibrate(self, cancel: Cancel | None = None) -> None:
        """Learns what the server must count for a prompt. Raises SegzeroError where it does not see the square."""
        self.expected = calibrate(
            self.profile, self.context, lambda prompt, pictures: self._count(prompt, pictures, cancel)
        )

    def _count(self, prompt: str, pictures: list[Image | None], cancel: Cancel | None) -> list[int]:
        """The server's tokens for a prompt with each of the pictures; None is no picture."""
        urls = [None if picture is None else _data_url(picture) for picture in pictures]

        def ask() -> list[_Work]:
            works = [self._work(i, url, prompt, 1, None) for i, url in enumerate(urls)]
            self._answer_all(works, None, cancel)
            return works

        try:
            works = ask()
        except ServerError as error:
            if error.code not in (400, 422):
                raise
            self._neutral = False
            try:
                works = ask()
            except SegzeroError:
                raise error from None
            log.warning("%s takes no repetition_penalty; its own sampling settings hold", self.client.address.base)
        if not all(w.done for w in works):
            raise SegzeroError(Status.CANCELLED, "the load was cancelled")
        return [w.prompt_tokens for w in works]

    def _work(self, index: int, picture: str | None, prompt: str, limit: int, sampling: Sampling | None) -> _Work:
        """picture: a data URL; it stands before the words, as the checkpoints were trained."""
        words = spell_out(prompt)
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": picture}}] if picture else []
        turn = {"role": "user", "content": [*parts, {"type": "text", "text": words}]}
        system, thinking = self.profile.system, self.profile.thinking
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "system", "content": system}, turn] if system else [turn],
            "max_tokens": limit,
            "temperature": sampling.temperature if sampling else 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling:
            body |= {"top_p": sampling.top_p, "seed": (sampling.seed + index) % (1 << 63)}
        if self._neutral:
            body |= NEUTRAL | (NEUTRAL_SAMPLING if sampling else {})
        if thinking != "written":
            body["chat_template_kwargs"] = {"enable_thinking": thinking == "opened"}
        if self.profile.answers_in_special_tokens:
            body["skip_special_tokens"] = False
        return _Work(index, words, limit, body, AnswerText(opened=thinking == "opened"))

    def _data_url(self, square: Image) -> str:
        side = self.profile.square
        if square.shape != (side, side, 3):
            raise ValueError(f"a square of {side} x {side} pixels is asked, not {square.shape}")
        return _data_url(square)

    def _answer_all(self, works: list[_Work], on_text: OnText | None, cancel: Cancel | None) -> None:
        """All at once, until all are answered, one fails or the flag is set; then no connection stays."""

        async def ask(connections: httpx2.AsyncClient) -> None:
            await all_or_none(self._answer(connections, work, on_text, cancel) for work in works)

        self.client.run(ask, cancel)

    async def _answer(
        self, connections: httpx2.AsyncClient, work: _Work, on_text: OnText | None, cancel: Cancel | None
    ) -> None:
        def say(text: str) -> None:
            if text and on_text is not None:
                on_text(work.index, text)

        def take(piece: Piece) -> None:
            work.finish = piece.finish or work.finish
            work.prompt_tokens = piece.prompt_tokens or work.prompt_tokens
            if piece.content or piece.thought:
                work.first = work.first or time.perf_counter()
                work.tokens += 1
                say(work.text.add(piece))
            work.tokens = piece.completion_tokens or work.tokens
            if cancel is not None and cancel.is_set():
                raise Stopped

        try:
            await self.client.ask(connections, work.body, work.limit, take)
        except Stopped:
            return
        except ServerError as error:
            if error.code != 404:
                raise
            names = _listed(await self.client.list_models(connections))
            raise broken(f"{error.message}; it serves {names}, and {one_line(self.model, 80)} was asked") from None
        self._refuse_other_ends(work)
        say(work.text.end(finished=work.finish == "stop"))
        work.done = True

    def _refuse_other_ends(self, work: _Work) -> None:
        base = self.client.address.base
        if work.finish not in ("stop", "length"):
            why = _ENDS.get(work.finish, f"it ended with {one_line(work.finish, 40)}")
            raise broken(f"{base} gave no answer: {why}")
        if not work.prompt_tokens:
            raise broken(
                f"{base} does not count prompt tokens in its streams (stream_options.include_usage), so that a resized"
                " picture would go unnoticed"
            )
        if self.expected is not None:
            self.expected.check(work.prompt, work.prompt_tokens)


def _data_url(image: Image) -> str:
    """PNG, which keeps every pixel; little effort, since the way is short."""
    file = io.BytesIO()
    PIL.fromarray(image).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _listed(models: dict[str, int]) -> str:
    names = [one_line(name, 80) for name in list(models)[:NAMES]]
    return ", ".join(names) + (", ..." if len(models) > NAMES else "") if names else "no model"


def _refused(sentence: str) -> SegzeroError:
    return SegzeroError(Status.NOT_READY, one_line(sentence, 600))
