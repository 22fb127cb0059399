"""The reasoning model behind a URL: squares and prompts in, texts out, by any server of OpenAI's chat completions."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from segzero_ros.core.answer_schema import check_grammar, warn_of_room
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
    ThoughtBudget,
)
from segzero_ros.core.profile import Profile
from segzero_ros.core.text import one_line
from segzero_ros.models.calibration import calibrate
from segzero_ros.models.prompt_tokens import PromptTokens, spell_out
from segzero_ros.models.server_address import Address, read_address
from segzero_ros.models.server_answers import ServerAnswer
from segzero_ros.models.server_client import ServerClient
from segzero_ros.models.server_constraint import AnswerForm
from segzero_ros.models.server_http import CONNECT, SILENCE
from segzero_ros.models.server_model import ServedModel
from segzero_ros.models.server_requests import constrained, continued_turn, data_url
from segzero_ros.models.server_thoughts import BegunTurn, ThoughtLimit
from segzero_ros.models.server_trials import ONE_WORD, ROOM, find_begun_turn, try_constraint

log = logging.getLogger(__name__)


def load_server_reasoner(
    profile: Profile,
    url: str,
    *,
    revision: str | None = None,
    adapter: str | None = None,
    constrain: bool | None = None,
    on_progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> ServerReasoner:
    """Asks the server for its model, and tries that it sees the profile's square as it is.

    revision, adapter: refused, since a server's weights are chosen where it is started; adapter "none" says that it has
    the profile's adapter already. constrain: answers are held to the profile's grammar, which the server is tried for;
    None: as the profile says. Raises SegzeroError: CANCELLED, or NOT_READY with a sentence.
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
    reasoner = ServerReasoner(
        read_address(url), profile, constrain=profile.constrain if constrain is None else constrain
    )
    base = reasoner.client.address.base
    try:
        tell(0.0, f"asking {base} for its models")
        reasoner.connect(cancel)
        tell(0.5, f"trying whether {base} sees pictures as they are")
        reasoner.calibrate(cancel)
        if reasoner.constrain:
            tell(0.8, f"trying whether {base} holds answers to a form")
            reasoner.try_constraint(cancel)
    except SegzeroError as error:
        if error.status is Status.CANCELLED:
            raise
        raise _refused(error.message) from error
    return reasoner


class ServerReasoner:
    """See contract.Reasoner. Thread-safe: calls share nothing but what the load found out."""

    def __init__(
        self,
        address: Address,
        profile: Profile,
        *,
        constrain: bool = False,
        connect_timeout: float = CONNECT,
        silence: float = SILENCE,
    ) -> None:
        """Raises SegzeroError(NOT_READY) for a form of answers that has no grammar."""
        if constrain:
            check_grammar(profile)
        client = ServerClient(address, connect_timeout=connect_timeout, silence=silence)
        self.served = ServedModel(client, profile)
        self.profile, self.constrain = profile, constrain
        self.expected: PromptTokens | None = None  # None: not calibrated
        self.info = self._describe()
        self._begun: BegunTurn | None = None  # None: not tried
        self._form: AnswerForm | None = None

    @property
    def client(self) -> ServerClient:
        return self.served.client

    @property
    def model(self) -> str:
        """Its name; "" until it is found."""
        return self.served.name

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together; 0: the server does not say."""
        return self.served.context

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
        thought_budget: ThoughtBudget | None = None,
    ) -> list[Generation]:
        """Greedy unless sampling is given; the prompts of a batch are asked at once, each with a seed of its own.

        on_text(i, piece) as text comes, from this thread. Raises SegzeroError: BACKEND_ERROR, BUSY, TIMEOUT, and
        BAD_INSTRUCTION for words that do not fit into the server's context with an answer.
        """
        pictures: dict[int, str] = {}  # one image may be asked many times
        for square in squares:
            if id(square) not in pictures:
                pictures[id(square)] = self._data_url(square)
        began = time.perf_counter()
        limit = max_new_tokens or self.profile.max_new_tokens
        ends_thoughts = thought_budget is not None or self.constrain
        begun = self._find_begun_turn(cancel) if ends_thoughts else None
        form = self._find_form() if self.constrain else None
        answers = []
        for i, (square, prompt) in enumerate(zip(squares, prompts, strict=True)):
            words = spell_out(prompt)
            self._refuse_too_long(words, limit)
            body = self.served.body(pictures[id(square)], words, limit, sampling, i)
            answers.append(
                ServerAnswer(
                    words,
                    body,
                    opened=self.profile.thinking == "opened",
                    expected=self.expected,
                    form=form,
                    thought=self._thought_limit(limit, form, thought_budget) if begun else None,
                    begun=begun,
                    split=self.expected.split if self.expected else None,
                    say=_saying(on_text, i),
                    cancel=cancel,
                )
            )
        if cancel is None or not cancel.is_set():
            self.served.ask_all(answers, cancel)
        ended = time.perf_counter()
        return [
            Generation(
                text=a.text,
                prompt_tokens=a.prompt_tokens,
                completion_tokens=a.tokens,
                truncated=a.done and a.cut,
                cancelled=not a.done,
                first_token=(a.first or ended) - began,
                thought_ended=a.ended,
            )
            for a in answers
        ]

    def connect(self, cancel: Cancel | None = None) -> None:
        """Finds the model that is meant. Raises SegzeroError."""
        self.served.connect(cancel)
        self.info = self._describe()

    def calibrate(self, cancel: Cancel | None = None) -> None:
        """Learns what the server must count for a prompt. Raises SegzeroError where it does not see the square."""

        def ask(prompt: str, pictures: list[Image | None]) -> list[int]:
            urls = [None if picture is None else data_url(picture) for picture in pictures]
            answers = self.served.ask_neutrally(lambda: [self.served.body(url, prompt, 1) for url in urls], cancel)
            return [a.prompt_tokens for a in answers]

        self.expected = calibrate(self.profile, self.served.context, ask)
        self._form, self._begun = None, None  # whose counts were others

    def try_constraint(self, cancel: Cancel | None = None) -> None:
        """Raises SegzeroError where the server ignores or refuses the constraint, or cannot end a thought."""
        form = self._find_form()
        if why := warn_of_room(form.room, self.profile.max_new_tokens):
            log.warning(why)
        turn = self.try_begun_turn(cancel)

        def ask(begun: str) -> str:
            body = continued_turn(self.served.question(1), begun, ROOM)
            return self.served.ask_bodies([constrained(body, ONE_WORD)], cancel)[0].text

        try_constraint(turn, ask)
        self.served.ask_bodies([constrained(self.served.question(1), tag) for tag in (form.turn, form.answer)], cancel)

    def try_begun_turn(self, cancel: Cancel | None = None) -> BegunTurn:
        """Raises SegzeroError where the server does not go on with a turn that was begun: no thought can be ended."""
        turn = self._find_begun_turn(cancel)
        if turn is None:
            raise SegzeroError(Status.CANCELLED, "the load was cancelled")
        return turn

    def _find_begun_turn(self, cancel: Cancel | None) -> BegunTurn | None:
        """Tried once, when it is first needed. None where the flag was set meanwhile."""

        def ask(words: str, begun: str | None) -> int:
            body = self.served.question(1, words)
            answers = self.served.ask_bodies([body if begun is None else continued_turn(body, begun, 1)], cancel)
            return answers[0].prompt_tokens

        if self._begun is None:
            try:
                self._begun = find_begun_turn(self.profile, self.expected.count if self.expected else None, ask)
            except SegzeroError as error:
                if error.status is not Status.CANCELLED:
                    raise
        return self._begun

    def _find_form(self) -> AnswerForm:
        if self._form is None:
            self._form = AnswerForm(self.profile, self.expected.count if self.expected else None)
        return self._form

    def _thought_limit(self, limit: int, form: AnswerForm | None, budget: ThoughtBudget | None) -> ThoughtLimit:
        count = self.expected.count if self.expected else None
        return ThoughtLimit(self.profile, limit, form.room if form else None, budget, count)

    def _refuse_too_long(self, words: str, limit: int) -> None:
        """Where a tokenizer is here; else the server says so."""
        if not self.context or self.expected is None or not self.expected.is_exact:
            return
        tokens, _ = self.expected.bounds(words)
        if tokens + limit > self.context:
            raise SegzeroError(
                Status.BAD_INSTRUCTION,
                f"the instruction is too long for the server: with picture and answer it needs {tokens + limit} tokens,"
                f" and {self.context} is what the server takes",
            )

    def _data_url(self, square: Image) -> str:
        side = self.profile.square
        if square.shape != (side, side, 3):
            raise ValueError(f"a square of {side} x {side} pixels is asked, not {square.shape}")
        return data_url(square)


def _saying(on_text: OnText | None, index: int) -> Callable[[str], None]:
    return (lambda text: None) if on_text is None else (lambda text: on_text(index, text))


def _refused(sentence: str) -> SegzeroError:
    return SegzeroError(Status.NOT_READY, one_line(sentence, 600))
