"""A reasoner by URL in front of servers that misbehave: a typed status and one sentence, and never a wrong answer."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import traceback
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segzero_ros.core.contract import Cancel, Generation, Sampling, SegzeroError, Status
from segzero_ros.core.steps import Deadline
from segzero_ros.models.checkpoints import resolve
from segzero_ros.models.prompt_tokens import PromptTokens
from segzero_ros.models.reasoner_server import ServerReasoner, load_server_reasoner
from segzero_ros.models.server_address import is_address, read_address
from segzero_ros.profiles import load_profile
from tests.servers import misbehaving
from tests.servers.process import served

SIDE = 280  # a hundred tokens of the published checkpoints
PROFILE = replace(
    load_profile("demo"), reasoner="http://localhost/v1", square=SIDE, prompt="{question}", max_new_tokens=64
)
SQUARE = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
BACKEND, BUSY, TIMEOUT = Status.BACKEND_ERROR, Status.BUSY, Status.TIMEOUT
KEY = "sk-never-to-be-seen-0123456789"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served("misbehaving") as found:
        yield found


def told(address: str, way: str, what: str) -> Any:
    """What the server saw, see misbehaving.py."""
    with urllib.request.urlopen(f"{address}/{way}/{what}", timeout=30) as answer:
        return json.load(answer)


def reasoner(address: str, way: str, **more: Any) -> ServerReasoner:
    """As it is after a load from a server that did well."""
    found = ServerReasoner(read_address(f"{address}/{way}/v1#one"), PROFILE, **more)
    found.expected = PromptTokens("x", 10 + 1 + 102, None)
    return found


def ask(one: ServerReasoner, words: str = "the red mug", **more: Any) -> tuple[Generation, str]:
    """The answer, and the text that was told while it came."""
    pieces: list[str] = []
    more.setdefault("on_text", lambda _, piece: pieces.append(piece))
    (found,) = one.generate([SQUARE], [words], **more)
    return found, "".join(pieces)


def test_a_server_that_does_well_is_understood(address: str) -> None:
    found, pieces = ask(reasoner(address, "good"))
    assert found.text == pieces == "the red mug "
    assert (found.prompt_tokens, found.completion_tokens) == (10 + 3 + 102, 3)
    assert not found.truncated and not found.cancelled and found.first_token > 0


FAULTS = {
    # way: status, words of the sentence, text that was told before
    "resets": (BACKEND, "broke the connection off", ""),
    "refuses_the_key": (BACKEND, "wants a key, set SEGZERO_API_KEY: Incorrect API key", ""),
    "forbids": (BACKEND, "wants a key", ""),
    "has_no_such_model": (BACKEND, "The model `one` does not exist.; it serves one", ""),
    "has_no_such_way": (BACKEND, "Not Found; it serves one", ""),
    "refuses_the_request": (BACKEND, "refuses the request (400): maximum context [31m length is 512", ""),
    "refuses_in_fastapi": (BACKEND, "(422): field required", ""),
    "takes_nothing_large": (BACKEND, "takes no request as large", ""),
    "has_too_many": (BUSY, "too many requests (429): slow down", ""),
    "loads": (BUSY, "still loads its model (503): Loading model", ""),
    "loads_for_an_hour": (BUSY, "503", ""),
    "loads_until_a_date": (BUSY, "503", ""),
    "fails": (BACKEND, "a fault of its own (500): CUDA error xxx", ""),
    "fails_with_a_page": (BACKEND, "(502): a page", ""),
    "is_a_page": (BACKEND, "answers with a page", ""),
    "sends_elsewhere": (BACKEND, "sends to /good/v1", ""),
    "does_not_stream": (BACKEND, "answers with application/json and not with a stream", ""),
    "is_no_http": (BACKEND, "does not keep to HTTP", ""),
    "compresses": (BACKEND, "compresses its answer", ""),
    "fails_with_a_bomb": (BACKEND, "(500)", ""),
    "answers_an_endless_page": (BACKEND, "(500)", ""),
    "counts_a_resized_picture": (BACKEND, "counted 96 tokens for a prompt of", "the beginning"),
    "counts_nothing": (BACKEND, "does not count prompt tokens", "the beginning"),
    "counts_nonsense": (BACKEND, "does not count prompt tokens", "the beginning"),
    "does_not_say_why_it_ends": (BACKEND, "ended its stream without saying why, after 13 characters", "the beginning"),
    "dies_in_the_middle": (BACKEND, "after 13 characters", "the beginning"),
    "ends_in_the_middle": (BACKEND, "ended its stream in the middle, after 13 characters", "the beginning"),
    "resets_in_the_middle": (BACKEND, "broke the connection off, after 13 characters", "the beginning"),
    "fails_in_the_middle": (BACKEND, "broke its answer off: engine died", "the beginning"),
    "ends_by_its_filter": (BACKEND, "its filter ended the answer", "the beginning"),
    "calls_a_tool": (BACKEND, "it wanted to call a tool", "the beginning"),
    "ends_oddly": (BACKEND, "it ended with ab ort", "the beginning"),
    "ends_in_half_a_token": (BACKEND, "ended its stream in the middle", "the beginning"),
    "sends_no_utf8": (BACKEND, "are not UTF-8", "the beginning"),
    "sends_no_json": (BACKEND, "are not JSON: {'choices': oh", "the beginning"),
    "nests": (BACKEND, "are not JSON: [[[", ""),
    "promises_more_bytes": (BACKEND, "after 13 characters", "the beginning"),
    "promises_fewer_bytes": (BACKEND, "in the middle, after 13 characters", "the beginning"),
    "writes_for_ever": (BACKEND, "writes on beyond the limit of 64 tokens", "x" * 192),
    "pings_for_ever": (BACKEND, "stream does not end", ""),
    "sends_an_endless_line": (BACKEND, "a line of more than 1 MB", ""),
}


@pytest.mark.parametrize("way", FAULTS)
def test_a_fault_is_a_status_and_a_sentence(address: str, way: str) -> None:
    status, words, text = FAULTS[way]
    pieces: list[str] = []
    with pytest.raises(SegzeroError) as error:
        ask(reasoner(address, way), on_text=lambda _, piece: pieces.append(piece))
    assert error.value.status is status and words in error.value.message
    assert len(error.value.message) <= 500 and error.value.message.isprintable()
    assert "".join(pieces) == text, "what was written stays with who listens"


def test_every_way_is_tried() -> None:
    here = set(FAULTS) | set(GOES_ON) | set(WRITTEN) | set(HANGS) | set(LOADS)
    others = {
        "echoes_half_the_key",
        "ends_by_the_limit",
        "good",
        "loads_for_a_while",
        "has_cells_of_its_own",
        "is_strict",
    }
    assert set(misbehaving.WAYS) - set(misbehaving.STEERED) <= here | others


GOES_ON = {
    "resets_once": 2,
    "closes_once": 2,
    "has_too_many_once": 2,
    "loads_once": 2,
    "resets": 2,
    "loads": 2,
    "has_too_many": 1,
    "loads_for_an_hour": 1,
    "resets_in_the_middle": 1,
    "dies_in_the_middle": 1,
    "fails": 1,
    "refuses_the_request": 1,
}


@pytest.mark.parametrize("way", GOES_ON)
def test_it_asks_once_more_where_nothing_was_generated_and_never_after(address: str, way: str) -> None:
    with_others = told(address, way, "times")
    try:
        assert ask(reasoner(address, way))[0].text == "the red mug "
        assert way.endswith("once")
    except SegzeroError:
        assert not way.endswith("once")
    assert told(address, way, "times") - with_others == GOES_ON[way]


HANGS = ("hangs_before_it_answers", "hangs_after_its_head", "hangs_in_the_middle")


@pytest.mark.parametrize("way", [*HANGS, "loads_for_a_while"])
def test_a_cancel_ends_whatever_is_waited_for_and_reaches_the_server(address: str, way: str) -> None:
    flag = Cancel()

    def set_once_it_was_asked() -> None:
        told(address, way, "asked")
        flag.set()

    thread = threading.Thread(target=set_once_it_was_asked)
    thread.start()
    found, pieces = ask(reasoner(address, way), cancel=flag)
    thread.join()
    assert found.cancelled and not found.truncated
    assert found.text == pieces and "the beginning".startswith(pieces)
    assert way == "loads_for_a_while" or told(address, way, "gone") is True


def test_a_cancel_in_the_middle_keeps_what_was_written(address: str) -> None:
    flag = Cancel()
    found, _ = ask(reasoner(address, "writes_for_ever"), cancel=flag, on_text=lambda *_: flag.set())
    assert found.cancelled and found.text == "x" and found.completion_tokens == 1
    assert told(address, "writes_for_ever", "gone") is True


@pytest.mark.parametrize("way", HANGS)
def test_a_deadline_ends_a_server_that_hangs(address: str, way: str) -> None:
    deadline = Deadline(None, 0.3)
    assert ask(reasoner(address, way), cancel=deadline)[0].cancelled
    assert deadline.error().status is TIMEOUT


@pytest.mark.parametrize("way", HANGS)
def test_silence_is_not_borne_for_ever_where_there_is_no_deadline(address: str, way: str) -> None:
    pieces: list[str] = []
    with pytest.raises(SegzeroError, match=r"has sent and taken nothing for 0\.3 s") as error:
        ask(reasoner(address, way, silence=0.3), on_text=lambda _, piece: pieces.append(piece))
    assert way == "hangs_in_the_middle" or not pieces
    assert error.value.status is (BACKEND if pieces else TIMEOUT)  # none of a process that was held up for 0.3 s


def test_a_flag_that_is_set_already_asks_nobody(address: str) -> None:
    flag = Cancel()
    flag.set()
    before = told(address, "good", "times")
    assert ask(reasoner(address, "good"), cancel=flag)[0].cancelled
    assert told(address, "good", "times") == before


class AtLook(Cancel):
    """Set at its fourth look."""

    looks = 0

    def is_set(self) -> bool:
        self.looks += 1
        return self.looks > 3


class TestConnecting:
    @pytest.fixture
    def full(self) -> Iterator[str]:
        """A port whose queue is full: no connection to it is taken or refused."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(0)
            waiting = [socket.socket() for _ in range(3)]
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(listening.getsockname())
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            for one in waiting:
                one.close()

    def test_it_has_a_time_limit(self, full: str) -> None:
        with pytest.raises(SegzeroError, match="does not take the connection in time") as error:
            ask(reasoner(full, "good", connect_timeout=0.2))
        assert error.value.status is BACKEND

    def test_a_cancel_ends_it(self, full: str) -> None:
        assert ask(reasoner(full, "good"), cancel=AtLook())[0].cancelled

    def test_nobody_there(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and does not listen
            with pytest.raises(SegzeroError, match=r"connection was refused; does the server run there\?"):
                ask(reasoner(f"http://127.0.0.1:{taken.getsockname()[1]}", "good"))

    def test_an_unknown_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(SegzeroError, match="is not found: the name of its host is not known"):
            ask(reasoner("http://robot.invalid:8000", "good"))

    def test_https_where_http_is_spoken(self, address: str) -> None:
        with pytest.raises(SegzeroError, match="cannot be trusted"):
            ask(reasoner(address.replace("http", "https", 1), "good"))

    def test_no_proxy_leads_to_this_machine(self, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        assert ask(reasoner(address, "good"))[0].text == "the red mug "


WRITTEN = {
    "thinks_in_reasoning": "<think>hmm</think>\n<answer>[]",
    "thinks_in_reasoning_content": "<think>hmm</think><answer>[]",
    "thinks_in_both": "<think>hmm</think><answer>[]",
    "thinks_twice": "<think>hmm</think><answer>[]",
    "thinks_with_tags": "<think>hmm</think><answer>[]",
    "thinks_in_the_content": "<think>hmm</think><answer>[]",
    "only_thinks": "<think>hmm</think>",
    "parts_a_character": "\U0001f600 \ufffdx",
    "cuts_its_bytes_anywhere": "größer 🐤",
    "sends_odd_types": "still ",
}


@pytest.mark.parametrize("way", WRITTEN)
def test_the_text_is_the_models_however_it_is_parted(address: str, way: str) -> None:
    one = reasoner(address, way)
    found, pieces = ask(one)
    assert found.text == pieces == WRITTEN[way]


def test_a_thought_that_the_prompt_opened_has_no_tag_before_it(address: str) -> None:
    one = reasoner(address, "thinks_in_reasoning")
    one.profile = replace(PROFILE, thinking="opened")
    assert ask(one)[0].text == "hmm</think>\n<answer>[]"


def test_the_token_limit_is_told(address: str) -> None:
    found, _ = ask(reasoner(address, "ends_by_the_limit"))
    assert found.truncated and found.text == "the beginning" and not found.cancelled
    assert ask(reasoner(address, "good"), max_new_tokens=2)[0].text == "the red "


def test_many_robots_in_one_process_each_get_their_own(address: str) -> None:
    one = reasoner(address, "good", connect_timeout=60)
    found: dict[int, str] = {}

    def robot(number: int) -> None:
        words = " ".join(f"{number}-{n}" for n in range(40))
        found[number] = ask(one, words)[0].text.strip() if ask(one, words)[1].strip() == words else "crossed"

    threads = [threading.Thread(target=robot, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: " ".join(f"{number}-{n}" for n in range(40)) for number in range(64)}


def test_one_of_a_batch_that_fails_ends_the_others(address: str) -> None:
    one = reasoner(address, "refuses_the_request")
    with pytest.raises(SegzeroError, match="400"):
        one.generate([SQUARE] * 3, ["a", "b", "c"])


def test_what_a_listener_raises_is_not_the_servers_fault(address: str) -> None:
    def listener(*_: Any) -> None:
        raise BrokenPipeError("the screen is gone")

    with pytest.raises(BrokenPipeError):
        ask(reasoner(address, "good"), on_text=listener)


class TestTokens:
    def test_without_a_tokenizer_a_prompt_has_bounds_and_a_known_one_its_number(self) -> None:
        expected = PromptTokens("find x", 1000, None)
        expected.check("find the red mug", 1003)
        for wrong in (1003 - 59, 1003 + 61, 100, 1004):
            with pytest.raises(SegzeroError, match="resized or dropped the picture"):
                expected.check("find the red mug", wrong)

    def test_with_a_tokenizer_it_has_a_number(self) -> None:
        expected = PromptTokens("find x", 1000, lambda text: len(text.split()))
        expected.check("find the red mug", 1002)
        for wrong in (1001, 1003):
            with pytest.raises(SegzeroError, match=f"counted {wrong} tokens for a prompt of 1002"):
                expected.check("find the red mug", wrong)


LOADS = {
    "serves_two": "serves 2 models (one, two); choose one: http",
    "serves_none": "names no model; give one: http",
    "lists_oddly": "something else than a list of models",
    "has_little_room": "takes 300 tokens in all, and a prompt of 113 with an answer of 1024 needs more",
    "resizes": "counts 83 tokens for a picture of 280 x 280 pixels, where 100 and two around it would be right",
    "brings_all_to_one_size": "counts 402 tokens for a picture of 280 x 280 pixels, where 100 and two",
    "does_not_see": "counts 0 tokens for a picture of 280 x 280 pixels: it does not look at pictures",
    "refuses_the_key": "wants a key",
    "counts_nothing": "does not count prompt tokens",
    "refuses_the_request": "refuses the request (400): maximum context",
}


class TestLoading:
    @pytest.mark.parametrize("way", LOADS)
    def test_what_cannot_be_used_is_a_sentence(self, address: str, way: str) -> None:
        profile = replace(PROFILE, max_new_tokens=1024)
        with pytest.raises(SegzeroError) as error:
            load_server_reasoner(profile, f"{address}/{way}/v1")
        assert error.value.status is Status.NOT_READY and LOADS[way] in error.value.message
        assert len(error.value.message) <= 600 and error.value.message.isprintable()

    def test_a_server_that_does_well_is_taken_with_its_only_model(self, address: str) -> None:
        one = load_server_reasoner(PROFILE, f"{address}/good/v1/")
        assert str(one.info) == f"one at {address}/good/v1 (server)" and one.info.revision == ""
        assert ask(one)[0].text == "the red mug "

    def test_one_of_several_models_is_chosen_behind_a_hash(self, address: str) -> None:
        assert load_server_reasoner(PROFILE, f"{address}/serves_two/v1#one").model == "one"
        with pytest.raises(SegzeroError, match="has no model three; it serves one, two"):
            load_server_reasoner(PROFILE, f"{address}/serves_two/v1#three")

    def test_cells_of_another_size_are_found_by_a_second_picture(self, address: str) -> None:
        assert load_server_reasoner(PROFILE, f"{address}/has_cells_of_its_own/v1").expected is not None

    def test_a_strict_server_is_asked_without_what_it_does_not_know(self, address: str) -> None:
        one = load_server_reasoner(PROFILE, f"{address}/is_strict/v1")
        assert ask(one, sampling=Sampling(0.7, 0.9, 3))[0].text == "the red mug "

    @pytest.mark.parametrize(
        ("wish", "sentence"),
        [({"revision": "main"}, "a revision is chosen where"), ({"adapter": "my/lora"}, "start the server with it")],
    )
    def test_what_a_server_decides_is_refused(self, address: str, wish: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SegzeroError, match=sentence) as error:
            load_server_reasoner(PROFILE, f"{address}/good/v1", **wish)
        assert error.value.status is Status.NOT_READY

    def test_a_profiles_adapter_must_be_the_servers(self, address: str) -> None:
        profile = replace(PROFILE, adapter="some/lora")
        with pytest.raises(SegzeroError, match="say adapter none here"):
            load_server_reasoner(profile, f"{address}/good/v1")
        assert load_server_reasoner(profile, f"{address}/good/v1", adapter="none").model == "one"

    @pytest.mark.parametrize("way", HANGS)
    def test_a_cancel_ends_it(self, address: str, way: str) -> None:
        with pytest.raises(SegzeroError) as error:
            load_server_reasoner(PROFILE, f"{address}/{way}/v1", cancel=AtLook())
        assert error.value.status is Status.CANCELLED

    def test_a_tokenizer_that_is_named_must_be_here(self, address: str) -> None:
        with pytest.raises(SegzeroError, match=r"the tokenizer nobody/nothing is not on this disk"):
            load_server_reasoner(replace(PROFILE, tokenizer="nobody/nothing"), f"{address}/good/v1")


class TestTheKey:
    WAYS = ("good", "refuses_the_key", "forbids", "sends_elsewhere", "echoes_half_the_key", "resets", "is_no_http")

    def test_it_is_sent_and_shown_nowhere(
        self,
        address: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("SEGZERO_API_KEY", KEY)
        caplog.set_level(logging.DEBUG)
        seen = []
        for way in self.WAYS:
            one = reasoner(address, way)
            try:
                seen.append(repr(ask(one)))
            except SegzeroError as error:
                seen += [error.message, repr(error), *traceback.format_exception(error), repr(error.__context__)]
            seen += [repr(one), repr(one.client), str(one.info), repr(one.client._http._headers)]
        shown = "\n".join([*seen, caplog.text, *capfd.readouterr()])
        assert "refuses the key of SEGZERO_API_KEY: Incorrect API key provided: Bearer ***" in shown, "it was sent"
        assert not any(KEY[:n] in shown for n in range(12, len(KEY) + 1))

    def test_no_other_key_is_sent(self, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with pytest.raises(SegzeroError, match=r"provided:$"):
            ask(reasoner(address, "refuses_the_key"))

    def test_one_that_is_none_is_refused_unseen(self, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEGZERO_API_KEY", f"{KEY}\r\nx-evil: 1")
        with pytest.raises(SegzeroError) as error:
            load_server_reasoner(PROFILE, f"{address}/good/v1")
        assert error.value.status is Status.NOT_READY and KEY not in error.value.message


class TestAddresses:
    @pytest.mark.parametrize(
        ("url", "base", "model"),
        [
            ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1", ""),
            (" http://jetson:8000 ", "http://jetson:8000/v1", ""),
            ("HTTPS://[::1]:1/v1/#Qwen/Qwen2.5-VL", "https://[::1]:1/v1", "Qwen/Qwen2.5-VL"),
            ("http://h/proxy/v1#a%20b", "http://h/proxy/v1", "a b"),
            ("http://h/v1#@cf/meta/llama", "http://h/v1", "@cf/meta/llama"),
        ],
    )
    def test_one_is_taken_apart(self, url: str, base: str, model: str) -> None:
        found = read_address(url)
        assert is_address(url) and (found.base, found.model) == (base, model)

    @pytest.mark.parametrize("url", ["http://", "http://h:99999/v1", "http://h/v1?a=b", "http://h /v1", "http://[::1"])
    def test_one_that_is_none_is_refused(self, url: str) -> None:
        with pytest.raises(SegzeroError) as error:
            read_address(url)
        assert error.value.status is Status.NOT_READY

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1", "127.8.8.8", "[::1]", "[::ffff:127.0.0.1]"])
    def test_this_machine_is_known_in_every_spelling_so_that_no_proxy_is_asked(self, host: str) -> None:
        assert read_address(f"http://{host}:8000/v1").is_loopback

    @pytest.mark.parametrize("host", ["jetson", "10.0.0.1", "[::ffff:10.0.0.1]", "127.evil.org", "localhost.evil.org"])
    def test_another_machine_is_none_of_them(self, host: str) -> None:
        assert not read_address(f"http://{host}:8000/v1").is_loopback

    @pytest.mark.parametrize("name", ["jetson:8000/v1", "127.0.0.1:8000", "[::1]:8000/v1"])
    def test_one_without_its_scheme_is_refused_with_the_right_one(self, name: str) -> None:
        with pytest.raises(SegzeroError, match=re.escape(f"http://{name}")):
            resolve(name, "reasoner")

    @pytest.mark.parametrize(
        "url",
        [
            "http://me:hunter2@h/v1",
            "http://me:hunter/2@h/v1",
            "http://me:hunter?2@h/v1",
            "http://me:hunter[2@h/v1",
            "http:///me:hunter2@h/v1",
            "http://me:hunter#2@h/v1",
            "http://me:#hunter2@h/v1",
        ],
    )
    def test_a_password_in_it_is_refused_and_not_shown(self, url: str) -> None:
        with pytest.raises(SegzeroError, match="names a user") as error:
            read_address(url)
        assert "hunter" not in error.value.message

    @pytest.mark.parametrize("content", [None, b"no certificate"])
    def test_certificates_that_cannot_be_read_are_a_sentence(
        self, content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "trusted.pem"
        if content is not None:
            file.write_bytes(content)
        monkeypatch.delenv("SSL_CERT_DIR", raising=False)
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        with pytest.raises(SegzeroError, match=r"certificates to trust cannot be read \(SSL_CERT_FILE\)") as error:
            load_server_reasoner(PROFILE, "https://robot.invalid/v1#one")
        assert error.value.status is Status.NOT_READY

    def test_names_of_folders_and_of_the_hub_are_none(self) -> None:
        assert not any(is_address(name) for name in ("embedded", "Qwen/Qwen2.5-VL", "/http://x", "https", ""))
