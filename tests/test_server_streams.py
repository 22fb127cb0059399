"""Forms of a stream that real servers and proxies send: each is read as what it is, or refused with a sentence.

The servers run in this process, each on a socket of its own, and send bytes as they are written here.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from segzero_ros.core.answer import parse_answer
from segzero_ros.core.contract import Cancel, SegzeroError, Status
from segzero_ros.models.prompt_tokens import PromptTokens
from segzero_ros.models.reasoner_server import ServerReasoner
from segzero_ros.models.server_address import read_address
from segzero_ros.models.server_client import ServerClient
from segzero_ros.models.server_events import AnswerText, EventLines, Piece
from segzero_ros.models.server_http import ServerHttp
from tests.test_misbehaving_servers import KEY, PROFILE, ask

EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
USAGE = {"prompt_tokens": 10 + 3 + 102, "completion_tokens": 2}
Act = Callable[[socket.socket, bytes], None]


@contextmanager
def server(act: Act) -> Iterator[str]:
    """Its address, while it calls act(socket, the request) for each connection."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                one, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(one,), daemon=True).start()

    def answer(one: socket.socket) -> None:
        with one, suppress(OSError):  # the client left
            act(one, read_request(one))

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def read_request(one: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (more := one.recv(65536)):
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")), 0)
    while len(body) < length and (more := one.recv(65536)):
        body += more
    return head


def reasoner(address: str, **more: Any) -> ServerReasoner:
    found = ServerReasoner(read_address(f"http://{address}/v1#one"), PROFILE, **more)
    found.expected = PromptTokens("x", 10 + 1 + 102, None)
    return found


def sending(*parts: bytes) -> Act:
    def act(one: socket.socket, _: bytes) -> None:
        for part in parts:
            one.sendall(part)

    return act


def answered(*parts: bytes) -> str:
    with server(sending(*parts)) as address:
        found, pieces = ask(reasoner(address))
    assert found.text == pieces
    return found.text


def refused(*parts: bytes) -> SegzeroError:
    with server(sending(*parts)) as address, pytest.raises(SegzeroError) as error:
        ask(reasoner(address))
    assert len(error.value.message) <= 500 and error.value.message.isprintable()
    return error.value


def event(choices: Any, **more: Any) -> bytes:
    return b"data: " + json.dumps({"choices": choices} | more).encode() + b"\n\n"


def delta(finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": fields, "finish_reason": finish}


DONE = event([delta("stop")]) + b"data: [DONE]\n\n"  # without counts
END = event([delta("stop")], usage=USAGE) + b"data: [DONE]\n\n"


class TestEvents:
    def test_lines_that_end_in_two_characters_comments_and_other_fields(self) -> None:
        text = b": keep-alive\n\nevent: message\nid: 7\nretry: 10\n" + event([delta(content="the mug")]) + b":\n" + END
        assert answered(EVENTS, text.replace(b"\n", b"\r\n")) == "the mug"

    @pytest.mark.parametrize("cut", range(1, 4))
    def test_a_character_may_be_cut_between_two_packets(self, cut: int) -> None:
        text = b'data: {"choices": [{"delta": {"content": "\xf0\x9f\xa6\x86"}}]}\n\n'
        at = text.index(b"\xf0") + cut
        assert answered(EVENTS + text[:at], text[at:] + END) == "\U0001f986"

    def test_forms_that_the_standard_has_and_no_server_writes_are_refused(self) -> None:
        text = event([delta(content="the mug")]) + END
        assert "ended its stream in the middle" in refused(EVENTS, text.replace(b"\n", b"\r")).message
        parted = b'data: {"choices": [{"delta":\ndata: {"content": "the mug"}}]}\n\n'
        assert "are not JSON" in refused(EVENTS, parted + END).message

    def test_a_mark_of_the_byte_order_may_stand_before_all(self) -> None:
        assert answered(EVENTS, b"\xef\xbb\xbf" + event([delta(content="the mug")]) + END) == "the mug"

    def test_counts_may_come_behind_the_end_without_a_choice(self) -> None:
        text = event([delta(content="the mug")]) + event([delta("stop")]) + event([], usage=USAGE)
        assert answered(EVENTS, text) == answered(EVENTS, text + b"data: [DONE]\n\n") == "the mug"

    def test_counts_may_come_with_every_event(self) -> None:
        text = event([delta(content="the ")], usage=USAGE | {"completion_tokens": 1})
        assert answered(EVENTS, text + event([delta(content="mug")], usage=USAGE) + END) == "the mug"


class TestAnswers:
    def test_the_content_may_be_a_list_of_parts(self) -> None:
        parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "mug"}]
        assert answered(EVENTS, event([delta(content=parts)]) + END) == "the mug"

    def test_a_part_of_the_content_that_is_a_thought_is_one(self) -> None:
        parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "mug"}]
        assert answered(EVENTS, event([delta(content=parts)]) + END) == "<think>hm</think>mug"

    def test_a_part_that_is_no_text_is_refused(self) -> None:
        error = refused(EVENTS, event([delta(content=[{"type": "image_url", "image_url": {}}])]) + END)
        assert error.status is Status.BACKEND_ERROR and "image_url" in error.message

    @pytest.mark.parametrize("finish", ["tool_calls", "stop"])
    def test_a_call_of_a_tool_is_no_answer(self, finish: str) -> None:
        calls = [{"index": 0, "id": "a", "type": "function", "function": {"name": "box", "arguments": "{}"}}]
        text = event([delta(tool_calls=calls)]) + event([delta(finish)], usage=USAGE) + b"data: [DONE]\n\n"
        assert "wanted to call a tool" in refused(EVENTS, text).message

    def test_a_refusal_of_the_model_is_told(self) -> None:
        error = refused(EVENTS, event([delta(refusal="I will not look at this")]) + END)
        assert "I will not look at this" in error.message

    def test_the_second_of_two_choices_is_no_part_of_the_answer(self) -> None:
        one, two = delta(content="the mug"), delta(content="the bowl", index=1)
        assert answered(EVENTS, event([one, two]) + event([two]) + event([two, one]) + END) == "the mugthe mug"
        ended = event([one]) + event([delta("length", index=1)]) + END
        assert answered(EVENTS, ended) == "the mug"

    @pytest.mark.parametrize(
        ("finish", "words"),
        [("content_filter", "its filter"), (None, "without saying why"), ("abort", "it ended with")],
    )
    def test_an_end_that_is_none_is_a_failure(self, finish: str | None, words: str) -> None:
        text = event([delta(content="the mug")]) + event([delta(finish)], usage=USAGE) + b"data: [DONE]\n\n"
        assert words in refused(EVENTS, text).message

    @pytest.mark.parametrize(
        ("finish", "words"), [("content_filter", "its filter"), ("tool_calls", "wanted to call a tool")]
    )
    def test_an_end_that_is_none_stays_one_though_a_better_is_told_later(self, finish: str, words: str) -> None:
        text = event([delta(content="the mug")]) + event([delta(finish)])
        assert words in refused(EVENTS, text + END).message

    def test_an_answer_that_was_cut_stays_cut(self) -> None:
        text = event([delta(content="the mug")]) + event([delta("length")]) + END
        with server(sending(EVENTS + text)) as address:
            assert ask(reasoner(address))[0].truncated

    def test_text_behind_the_end_is_a_second_answer_and_refused(self) -> None:
        text = event([delta(content="the mug")]) + event([delta("stop")]) + event([delta(content="the bowl")])
        assert "writes on behind the end" in refused(EVENTS, text + END).message

    def test_an_end_that_says_the_key_does_not_bring_it_into_the_sentence(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SEGZERO_API_KEY", KEY)
        assert "it ended with x***" in refused(EVENTS, event([delta("x" + KEY)], usage=USAGE)).message

    def test_an_error_with_200_is_the_servers(self) -> None:
        body = json.dumps({"error": {"message": "the engine is dead"}}).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
        error = refused(head % (b"application/json", len(body)), body)
        assert error.status is Status.BACKEND_ERROR and "the engine is dead" in error.message
        assert "the engine is dead" in refused(EVENTS, b"data: " + body + b"\n\n").message
        bare = b'event: error\ndata: {"object": "error", "message": "the engine is dead", "code": 500}\n\n'
        assert "the engine is dead" in refused(EVENTS, bare).message

    def test_an_error_in_a_line_of_its_own_is_the_servers(self) -> None:
        line = b'error: {"code": 500, "message": "the slot is gone", "type": "server_error"}\n\n'
        assert "broke its answer off: the slot is gone" in refused(EVENTS, event([delta(content="a")]) + line).message

    @pytest.mark.parametrize("fields", [{"message": {"role": "assistant", "content": "the mug"}}, {"text": "the mug"}])
    def test_a_stream_of_another_kind_is_no_empty_answer(self, fields: dict[str, Any]) -> None:
        assert "no `delta`" in refused(EVENTS, event([{"index": 0, "finish_reason": None} | fields]) + END).message

    def test_an_empty_message_beside_the_delta_is_nothing(self) -> None:
        both = delta(content="the mug") | {"message": None, "text": ""}
        assert answered(EVENTS, event([both]) + END) == "the mug"

    @pytest.mark.parametrize("code", [202, 204])
    def test_a_success_that_is_no_answer_is_told_as_one(self, code: int) -> None:
        head = b"HTTP/1.1 %d x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % code
        assert f"with a status of success ({code})" in refused(head).message

    @pytest.mark.parametrize("name", ["message", "detail"])
    def test_an_event_of_a_sentence_alone_is_an_error(self, name: str) -> None:
        bare = b"event: error\ndata: " + json.dumps({name: "the engine is dead", "code": 500}).encode() + b"\n\n"
        text = event([delta(content="the mug")])
        assert "broke its answer off: the engine is dead" in refused(EVENTS, text + bare).message

    def test_text_that_the_token_limit_cannot_hold_is_refused_in_one_event_too(self) -> None:
        assert (
            "writes on beyond the limit of 64 tokens"
            in refused(EVENTS, event([delta(content="[" * 500_000)]) + END).message
        )

    def test_a_compressed_stream_is_refused(self) -> None:
        head = EVENTS.replace(b"connection", b"content-encoding: gzip\r\nconnection")
        assert "compresses its answer" in refused(head, gzip.compress(event([delta(content="mug")]) + END)).message

    def test_a_line_of_fifty_megabytes_is_refused_before_it_has_come(self) -> None:
        sent: list[int] = []

        def act(one: socket.socket, _: bytes) -> None:
            one.sendall(EVENTS + b'data: {"choices": [{"delta": {"content": "')
            for count in range(50):
                one.sendall(b"x" * (1 << 20))
                sent.append(count)

        with server(act) as address, pytest.raises(SegzeroError, match=r"a line of more than 1 MB|does not end"):
            ask(reasoner(address))
        assert len(sent) < 20

    def test_what_was_counted_of_a_stream_that_broke_is_forgotten_with_it(self) -> None:
        """Else its count would vouch for another's picture."""
        times: list[bytes] = []

        def act(one: socket.socket, head: bytes) -> None:
            times.append(head)
            first = event([delta(role="assistant", content="")], usage=USAGE | {"completion_tokens": 0})
            one.sendall(EVENTS + (first if len(times) == 1 else event([delta(content="the mug")]) + DONE))

        with server(act) as address, pytest.raises(SegzeroError, match="does not count prompt tokens"):
            ask(reasoner(address))
        assert len(times) == 2

    def test_a_connection_that_is_kept_alive_without_a_word_is_silent(self) -> None:
        for begin in (b"", EVENTS, b"HTTP/1.1 500 x\r\n\r\n"):
            left = threading.Event()

            def act(one: socket.socket, _: bytes, begin: bytes = begin, left: threading.Event = left) -> None:
                one.sendall(begin or b"HTTP/1.1 200 OK\r\n")
                with suppress(OSError):
                    while not left.wait(0.05):
                        one.sendall(b": ping\n\n" if begin else b"x-drip: drip\r\n")

            with server(act) as address, pytest.raises(SegzeroError, match=r"nothing for 0\.3 s") as error:
                ask(reasoner(address, silence=0.3))
            left.set()
            assert error.value.status is Status.TIMEOUT

    def test_a_whole_answer_needs_no_end_of_the_connection(self) -> None:
        left = threading.Event()
        cost = b'data: {"choices": [], "cost": 1}\n\n'
        ends = [event([delta("stop")]) + event([], usage=USAGE) + cost, event([delta("stop")], usage=USAGE)]

        def act(one: socket.socket, _: bytes) -> None:
            one.sendall(EVENTS + event([delta(content="the mug")]) + ends.pop())
            left.wait(60)

        with server(act) as address:
            while ends:
                assert ask(reasoner(address, silence=20.0))[0].text == "the mug", "and not silence"
        left.set()

    def test_what_comes_byte_by_byte_takes_no_more_time_the_longer_it_is(self) -> None:
        """Else no cancel would be seen meanwhile."""

        class Dripping:
            async def aiter_raw(self) -> AsyncIterator[bytes]:
                for _ in range(600_000):
                    yield b"x"

        lines, http = EventLines(1 << 20), ServerHttp(read_address("http://h/v1"))
        began = time.process_time()
        for _ in range(600_000):
            lines.add(b"x")
        streamed = time.process_time()
        asyncio.run(http.read(Dripping()))  # type: ignore[arg-type]
        assert streamed - began < 6, "a second on a slow core"
        assert time.process_time() - streamed < 3, "half a second on a slow core"

    def test_a_slow_stream_is_ended_by_a_cancel(self) -> None:
        flag, gone = Cancel(), threading.Event()

        def act(one: socket.socket, _: bytes) -> None:
            one.sendall(EVENTS + event([delta(content="the ")]))
            with suppress(OSError):  # a client that leaves before it has read all resets
                one.sendall(b"data: {")
                while one.recv(4096):
                    pass
            gone.set()

        with server(act) as address:
            found, _ = ask(reasoner(address), cancel=flag, on_text=lambda *_: flag.set())
            assert found.cancelled and found.text == "the " and gone.wait(20)


class TestTheKey:
    @pytest.fixture(autouse=True)
    def key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEGZERO_API_KEY", "sk/robot=1")

    @pytest.mark.parametrize("spelt", ["sk/robot=1", "sk\\/robot=1", "sk/robot\\u003d1", "sk\\u002Frobot\\u003D1"])
    @pytest.mark.parametrize("before", [0, 35, 60, 75, 95, 195])
    def test_it_is_hidden_however_json_spells_it_and_where_the_sentence_is_cut(self, spelt: str, before: int) -> None:
        body = b'{"error": {"message": "%s%s"}}' % (b"x" * before, spelt.encode())
        head = b"HTTP/1.1 401 x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        refusal = event([delta(refusal="X")]).replace(b"X", b"x" * before + spelt.encode())
        broken = b'data: {"choices": [%s%s\n\n' % (b"x" * before, spelt.encode())
        part = event([delta(content=[{"type": "X"}])]).replace(b"X", b"x" * before + spelt.encode())
        streams = [EVENTS + line for line in (b"data: " + body + b"\n\n", refusal, broken, part)]
        for error in (refused(head % len(body), body), *map(refused, streams)):
            assert "sk" not in error.message and "robot" not in error.message

    def test_a_server_that_says_it_may_still_be_asked_again(self) -> None:
        times: list[bytes] = []

        def act(one: socket.socket, head: bytes) -> None:
            times.append(head)
            body = b'{"error": {"message": "sk/robot=1 is slow"}}'
            if len(times) == 1:
                one.sendall(b"HTTP/1.1 429 x\r\nretry-after: 0\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            else:
                one.sendall(EVENTS + event([delta(content="the mug")]) + END)

        with server(act) as address:
            assert ask(reasoner(address))[0].text == "the mug"

    def test_a_model_whose_name_holds_it_keeps_its_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEGZERO_API_KEY", "robot1")
        assert models([{"id": "robot1-vlm"}]) == {"robot1-vlm": 0}


def models(data: list[dict[str, Any]]) -> dict[str, int]:
    body = json.dumps({"data": data}).encode()
    found: dict[str, int] = {}
    with server(sending(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)) as address:
        client = ServerClient(read_address(f"http://{address}/v1"))

        async def call(connections: Any) -> None:
            found.update(await client.list_models(connections))

        client.run(call, None)
    return found


def test_an_adapter_has_the_room_of_its_model() -> None:
    listed: list[dict[str, Any]] = [{"id": "base", "max_model_len": 960}, {"id": "star", "parent": "base"}]
    assert models(listed) == {"base": 960, "star": 960}
    assert models([{"id": "star", "parent": "star"}]) == {"star": 0}


@pytest.mark.parametrize("base", ["/chat", "/v1/chat/completions"])
def test_a_page_that_is_not_there_names_the_usual_end_of_a_url(base: str) -> None:
    with server(sending(b"HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n")) as address:
        one = ServerReasoner(read_address(f"http://{address}{base}#one"), PROFILE)
        with pytest.raises(SegzeroError, match="mostly ends in /v1"):
            ask(one)


class TestAThoughtInTwoFields:
    def written(self, *contents: str) -> str:
        text = AnswerText()
        found = text.add(Piece(thought="it is the mug"))
        for content in contents:
            found += text.add(Piece(content=content))
        return found + text.end(finished=True)

    def test_an_answer_behind_a_thought_that_is_not_closed_again_is_read(self) -> None:
        answer = '<answer>[{"bbox_2d": [1, 2, 30, 40]}]</answer>'
        for whole in (f"<think>\n{answer}", f"<think>it is the mug{answer}"):
            for size in (1, 3, 100):
                text = self.written(*(whole[n : n + size] for n in range(0, len(whole), size)))
                assert text == f"<think>it is the mug</think>{answer}"

    def test_what_may_be_a_thought_is_no_answer(self) -> None:
        text = self.written('<think>perhaps [{"bbox_2d": [1, 2, 30, 40]}]')
        assert text == "<think>it is the mug</think>"
        assert parse_answer(text, PROFILE).status is Status.PARSE_ERROR


class TestRedirects:
    def test_the_key_does_not_follow_to_another_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEGZERO_API_KEY", KEY)
        asked: list[bytes] = []
        with server(lambda _, head: asked.append(head)) as other:
            for code in (301, 302, 303, 307, 308):
                head = f"HTTP/1.1 {code} x\r\nlocation: http://{other}/v1/chat/completions\r\ncontent-length: 0\r\n\r\n"
                error = refused(head.encode())
                assert f"sends to http://{other}/v1" in error.message
        assert not asked


class TestProxies:
    @pytest.fixture(autouse=True)
    def no_proxies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)

    @pytest.mark.parametrize(
        ("code", "header", "body"),
        [
            (407, b"Proxy-Authenticate: Basic realm=x", b"<html>who are you</html>"),
            (403, b"X-Squid-Error: ERR_ACCESS_DENIED 0", b"<html>denied</html>"),
            (502, b"Via: 1.1 squid", b"bad gateway"),
        ],
    )
    def test_a_refusal_of_a_proxy_names_it_and_the_way_around(
        self, code: int, header: bytes, body: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = b"HTTP/1.1 %d x\r\n%s\r\ncontent-length: %d\r\n\r\n%s" % (code, header, len(body), body)
        with server(sending(answer)) as proxy:
            monkeypatch.setenv("HTTP_PROXY", f"http://me:hunter2@{proxy}")
            with pytest.raises(SegzeroError) as error:
                ask(reasoner("robot.invalid:8000"))
        said = error.value.message
        assert f"a proxy on the way to http://robot.invalid:8000/v1 refuses the request ({code})" in said
        assert f"HTTP_PROXY ({proxy})" in said and "put robot.invalid into NO_PROXY" in said and "hunter2" not in said

    @pytest.mark.parametrize("proxy", ["http://me:hunt/er2@proxy:3128", "http://me:hunter2@proxy:port"])
    def test_a_proxy_that_is_no_url_is_a_failure_without_its_password(
        self, proxy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        with pytest.raises(SegzeroError, match="no URL that can be read: HTTP_PROXY") as error:
            ask(reasoner("robot.invalid:8000"))
        assert "hunt" not in error.value.message

    def test_a_proxy_that_opens_no_tunnel_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n"
        with server(sending(answer)) as proxy:
            monkeypatch.setenv("https_proxy", f"http://{proxy}")
            one = ServerReasoner(read_address("https://robot.invalid/v1#one"), PROFILE)
            with pytest.raises(SegzeroError, match=r"a proxy on the way .*407.*https_proxy .*into NO_PROXY"):
                ask(one)

    def test_a_proxy_that_is_not_there_is_not_taken_for_the_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
        with pytest.raises(SegzeroError, match=r"the proxy on the way .* cannot be reached: ALL_PROXY \(127"):
            ask(reasoner("robot.invalid:8000"))

    def test_a_refusal_of_the_server_that_a_proxy_passes_on_stays_the_servers(self) -> None:
        body = b'{"error": {"message": "no such model"}}'
        head = b"HTTP/1.1 403 x\r\nvia: 1.1 gateway\r\ncontent-length: %d\r\n\r\n" % len(body)
        assert "wants a key, set SEGZERO_API_KEY: no such model" in refused(head + body).message

    def test_a_redirect_through_a_proxy_still_says_where_it_leads(self) -> None:
        head = b"HTTP/1.1 307 x\r\nvia: 1.1 gateway\r\nlocation: http://robot.invalid/v1\r\ncontent-length: 0\r\n\r\n"
        assert "sends to http://robot.invalid/v1" in refused(head).message

    def test_a_proxy_before_the_server_is_named_as_one(self) -> None:
        said = refused(b"HTTP/1.1 502 x\r\nvia: 1.1 gateway\r\ncontent-length: 3\r\n\r\nbad").message
        assert "a proxy on the way to" in said and "it stands before the server" in said
