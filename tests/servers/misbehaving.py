"""Servers of chat completions that misbehave, each in one way: a process of its own, on plain sockets.

    python -m tests.servers.misbehaving    # prints its port, ends when its standard input does

The first part of a path says the way: http://127.0.0.1:PORT/WAY/v1. GET /WAY/asked answers once a request came,
/WAY/gone once a client was seen to leave, /WAY/times how many requests came. A good answer repeats the words of its
prompt, one to an event, and counts as Qwen2.5-VL does: a token for each word and for each 28 pixels squared, and more.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import socket
import socketserver
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WAIT = 20.0  # seconds after which a test that waits for nothing fails
MODELS = {"data": [{"id": "one"}]}
JSON = "content-type: application/json"
EVENTS = "content-type: text/event-stream"


class Events(dict[str, threading.Event]):
    """Made when they are first spoken of, by whichever thread."""

    def __missing__(self, name: str) -> threading.Event:
        return self.setdefault(name, threading.Event())


class Clock:
    """What happened on each way."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()
        self.asked = Events()
        self.gone = Events()


clock = Clock()


@dataclass
class Request:
    """One that was read whole."""

    socket: socket.socket
    way: str
    path: str
    headers: dict[str, str]
    body: Any

    @property
    def parts(self) -> list[dict[str, Any]]:
        """Of the person's turn."""
        return [part for m in self.body["messages"] if m["role"] == "user" for part in m["content"]]

    @property
    def begun(self) -> str:
        """Of the model's turn."""
        last = self.body["messages"][-1]
        return str(last["content"]) if last["role"] == "assistant" else ""

    @property
    def words(self) -> list[str]:
        return [w for part in self.parts for w in part.get("text", "").split()]

    @property
    def tokens(self) -> int:
        urls = [p["image_url"]["url"] for p in self.parts if p["type"] == "image_url"]
        sides = [struct.unpack(">I", base64.b64decode(url.partition(",")[2])[16:20])[0] for url in urls]  # of a PNG
        return 10 + len(self.words) + sum((side // 28) ** 2 + 2 for side in sides)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def head(self, code: int, *headers: str) -> None:
        self.send("\r\n".join([f"HTTP/1.1 {code} x", "connection: close", *headers, "", ""]).encode())

    def whole(self, code: int, body: bytes, *headers: str) -> Request:
        self.head(code, f"content-length: {len(body)}", *headers)
        self.send(body)
        return self

    def tell(self, what: Any) -> None:
        self.whole(200, json.dumps(what).encode(), JSON)

    def error(self, code: int, message: str, *headers: str) -> Request:
        self.whole(code, json.dumps({"error": {"message": message}}).encode(), JSON, *headers)
        return self

    def chunk(self, data: bytes) -> Request:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))
        return self

    def begin(self) -> None:
        self.head(200, EVENTS, "transfer-encoding: chunked")

    def event(self, delta: dict[str, Any], finish: str | None = None) -> Request:
        self.chunk(event(delta, finish))
        return self

    def end(self, finish: str = "stop", tokens: int | None = None) -> Request:
        self.event({}, finish)
        usage = {"prompt_tokens": self.tokens if tokens is None else tokens, "completion_tokens": len(self.words)}
        self.chunk(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")
        return self

    def good(self) -> Request:
        self.begin()
        for word in self.words[: self.body["max_tokens"]]:
            self.event({"content": word + " "})
        self.end()
        return self

    def some(self) -> Request:
        """The beginning of an answer."""
        self.begin()
        for word in ("the", " beginning"):
            self.event({"content": word})
        return self

    def wait_until_gone(self) -> Request:
        try:
            while self.socket.recv(4096):
                pass
        except OSError:
            pass
        clock.gone[self.way].set()
        return self

    def reset(self) -> Request:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

        return self


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return (
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"
    )


WAYS: dict[str, Callable[[Request], None]] = {}


def way(function: Callable[[Request], None]) -> Callable[[Request], None]:
    WAYS[function.__name__] = function
    return function


def always(name: str, act: Callable[[Request], Any]) -> None:
    WAYS[name] = act


def first_time(r: Request) -> bool:
    return clock.times[r.way] == 1


def deltas(*parts: dict[str, Any]) -> Callable[[Request], None]:
    def act(r: Request) -> None:
        r.begin()
        for part in parts:
            r.event(part)
        r.end()

    return act


always("good", Request.good)
always("hangs_before_it_answers", Request.wait_until_gone)
always("resets", Request.reset)
always("resets_once", lambda r: r.reset() if first_time(r) else r.good())
always("closes_once", lambda r: None if first_time(r) else r.good())
always("refuses_the_key", lambda r: r.error(401, "Incorrect API key provided: " + r.headers.get("authorization", "")))
always("echoes_half_the_key", lambda r: r.error(401, "x" * 180 + r.headers.get("authorization", "")))
always("forbids", lambda r: r.error(403, "no"))
always("has_no_such_model", lambda r: r.error(404, "The model `one` does not exist."))
always("refuses_the_request", lambda r: r.error(400, "maximum context\n\x1b[31m length is 512"))
always("refuses_in_fastapi", lambda r: r.whole(422, json.dumps({"detail": [{"msg": "field required"}]}).encode(), JSON))
always("takes_nothing_large", lambda r: r.error(413, "too large"))
always("has_too_many", lambda r: r.error(429, "slow down"))
always("has_too_many_once", lambda r: r.error(429, "slow down", "retry-after: 0") if first_time(r) else r.good())
always("loads", lambda r: r.error(503, "Loading model", "retry-after: 0"))
always("loads_once", lambda r: r.error(503, "Loading model", "retry-after: 0") if first_time(r) else r.good())
always("loads_for_an_hour", lambda r: r.error(503, "Loading model", "retry-after: 3600"))
always("loads_until_a_date", lambda r: r.error(503, "later", "retry-after: Fri, 01 Jan 2100 00:00:00 GMT"))
always("loads_for_a_while", lambda r: r.error(503, "Loading model", "retry-after: 30"))
always("fails", lambda r: r.error(500, "CUDA error " + "x" * 100_000))
always("fails_with_a_page", lambda r: r.whole(502, b"<html>bad gateway</html>", "content-type: text/html"))
always("is_a_page", lambda r: r.whole(200, b"<html>sign in</html>", "content-type: text/html"))
always(
    "sends_elsewhere",
    lambda r: r.whole(307, b"", f"location: /good/v1/chat/completions?{r.headers.get('authorization')}"),
)
always("does_not_stream", lambda r: r.tell({"choices": [{"message": {"content": "x"}}]}))
always("is_no_http", lambda r: r.send(b"220 mail.example ESMTP\r\n\r\n"))
always("compresses", lambda r: r.whole(200, gzip.compress(bytes(1 << 24)), EVENTS, "content-encoding: gzip"))
always("fails_with_a_bomb", lambda r: r.whole(500, gzip.compress(bytes(1 << 24)), JSON, "content-encoding: gzip"))
always(
    "counts_a_resized_picture",
    lambda r: r.good() if r.body["max_tokens"] == 1 else r.some().end(tokens=r.tokens - 19),
)
always("counts_nothing", lambda r: r.some().event({}, "stop").chunk(b"data: [DONE]\n\n").chunk(b""))
always("counts_nonsense", lambda r: r.some().end(tokens=-5))
always("does_not_say_why_it_ends", lambda r: r.some().chunk(b"data: [DONE]\n\n").chunk(b""))
always("dies_in_the_middle", lambda r: r.some())
always("ends_in_the_middle", lambda r: r.some().chunk(b""))
always("resets_in_the_middle", lambda r: r.some().reset())
always("fails_in_the_middle", lambda r: r.some().chunk(b'data: {"error": {"message": "engine died"}}\n\n'))
always("ends_by_its_filter", lambda r: r.some().end("content_filter"))
always("calls_a_tool", lambda r: r.some().end("tool_calls"))
always("ends_by_the_limit", lambda r: r.some().end("length"))
always("ends_oddly", lambda r: r.some().end("ab\nort" * 100))
always(
    "thinks_in_reasoning", deltas({"reasoning": "hm"}, {"reasoning": "m"}, {"content": "\n<answer>"}, {"content": "[]"})
)
always("thinks_in_reasoning_content", deltas({"reasoning_content": "hmm", "content": None}, {"content": "<answer>[]"}))
always("thinks_in_both", deltas({"reasoning": "hmm", "reasoning_content": "hmm"}, {"content": "<answer>[]"}))
always(
    "thinks_twice",
    deltas({"reasoning": "hmm", "content": "<thi"}, {"content": "nk>hmm</th"}, {"content": "ink><answer>[]"}),
)
always("thinks_with_tags", deltas({"reasoning": "<thi"}, {"reasoning": "nk>hmm</think>"}, {"content": "<answer>[]"}))
always(
    "thinks_in_the_content", deltas({"content": "<think>h"}, {"content": "mm</think><answer>[]"}, {"reasoning": "hmm"})
)
always("only_thinks", deltas({"reasoning": "hmm"}))
always(
    "parts_a_character", deltas({"content": "\ud83d"}, {"content": "\ude00 "}, {"content": "\ud83d"}, {"content": "x"})
)


@way
def hangs_after_its_head(r: Request) -> None:
    r.begin()
    r.wait_until_gone()


@way
def hangs_in_the_middle(r: Request) -> None:
    r.some()
    r.wait_until_gone()


@way
def cuts_its_bytes_anywhere(r: Request) -> None:
    r.begin()
    usage = {"choices": [], "usage": {"prompt_tokens": r.tokens, "completion_tokens": 2}}
    text = ": ping\r\n\r\n" + "".join(
        f"data:{json.dumps(e, ensure_ascii=False)}\r\n\r\n"
        for e in (
            {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"delta": {"content": "größer "}}]},
            {"choices": [{"delta": {"content": "🐤"}, "finish_reason": "stop"}]},
            usage,
        )
    )
    for byte in text.encode():
        r.chunk(bytes([byte]))
    r.chunk(b"")  # without [DONE]


@way
def ends_in_half_a_token(r: Request) -> None:
    r.some()
    r.chunk(b'data: {"choices": [{"delta": {"content": "\xf0\x9f')
    r.chunk(b"")


@way
def sends_no_utf8(r: Request) -> None:
    r.some()
    r.chunk(b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n')


@way
def sends_no_json(r: Request) -> None:
    r.some()
    r.chunk(b"data: {'choices': oh\n\n")


@way
def nests(r: Request) -> None:
    r.begin()
    r.chunk(b"data: " + b"[" * 200_000 + b"\n\n")


@way
def sends_odd_types(r: Request) -> None:
    r.begin()
    odd: tuple[Any, ...] = ({}, {"choices": 3}, {"choices": [None]}, {"choices": [{"delta": [], "finish_reason": {}}]})
    for body in odd:
        r.chunk(b"data: " + json.dumps(body).encode() + b"\n\n")
    r.chunk(b'data: {"choices": [{"delta": {"content": 7}}], "usage": {"prompt_tokens": true}}\n\n')
    r.event({"content": "still "})
    r.end()


@way
def promises_more_bytes(r: Request) -> None:
    data = event({"content": "the beginning"})
    r.head(200, EVENTS, f"content-length: {len(data) + 100}")
    r.send(data)


@way
def promises_fewer_bytes(r: Request) -> None:
    data = event({"content": "the beginning"})
    r.head(200, EVENTS, f"content-length: {len(data) + 5}")
    r.send(data * 2)


def forever(data: bytes) -> Callable[[Request], None]:
    def act(r: Request) -> None:
        r.begin()
        try:
            while True:
                r.chunk(data)
        except OSError:
            clock.gone[r.way].set()

    return act


always("writes_for_ever", forever(event({"content": "x"})))
always("pings_for_ever", forever(b": ping\n\n" * 1000))
always("sends_an_endless_line", forever(b"x" * 100_000))


@way
def answers_an_endless_page(r: Request) -> None:
    r.head(500, "transfer-encoding: chunked")
    for _ in range(100):
        r.chunk(b"x" * 100_000)


# -- ways that a load meets

LISTS: dict[str, Any] = {
    "serves_two": {"data": [{"id": "one"}, {"id": "two\n"}]},
    "serves_none": {"data": []},
    "lists_oddly": {"data": "many"},
    "has_little_room": {"data": [{"id": "one", "max_model_len": 300}]},
}
for name in LISTS:
    always(name, Request.good)
always("resizes", lambda r: r.some().end(tokens=r.tokens - 19 if r.tokens > 100 else r.tokens))
always("brings_all_to_one_size", lambda r: r.some().end(tokens=11 + 402 if r.tokens > 30 else 11))
always("does_not_see", lambda r: r.some().end(tokens=11))


@way
def has_cells_of_its_own(r: Request) -> None:
    """Of 20 pixels; the words alone have 11 tokens."""
    url = next((p["image_url"]["url"] for p in r.body["messages"][-1]["content"] if p["type"] == "image_url"), "")
    side = struct.unpack(">I", base64.b64decode(url.partition(",")[2])[16:20])[0] if url else 0
    r.some()
    r.end(tokens=10 + len(r.words) + ((side // 20) ** 2 + 2 if side else 0))


@way
def is_strict(r: Request) -> None:
    if "repetition_penalty" in r.body:
        r.error(400, "Unrecognized request argument supplied: repetition_penalty")
    else:
        r.good()


# -- ways of servers that constrain an answer and go on with a turn that was begun, well or not

THOUGHTS = [f"thought{n} " for n in range(20)]
ANSWER = ['[{"bbox_2d": [1, 2, 30, 40]', ', "point_2d": [12, 20]', "}]"]
FORCED = "zebra42"  # the constraint that asks for one word


def steered(
    r: Request,
    *,
    constrains: bool = True,
    turns: int = 1,
    behind: list[str] = ANSWER,
    tokens: int = 0,
    cut: bool = False,
) -> None:
    """turns: how often the begun turn's words are counted. behind: what it writes behind a thought. tokens: more."""
    pattern = r.body.get("response_format", {"format": {}})["format"].get("pattern")
    if constrains and pattern == FORCED:
        texts = [FORCED]
    else:
        texts = behind if r.begun else ["<think>", *THOUGHTS, "</think>\n\n", *behind]
    r.begin()
    limit = r.body["max_tokens"]
    for text in texts[:limit]:
        r.event({"content": text})
    r.end("length" if cut or len(texts) > limit else "stop", tokens=r.tokens + turns * len(r.begun.split()) + tokens)


def second(r: Request) -> bool:
    """Whether a thought was closed, and not for a trial."""
    return "thought" in r.begun


def think_and_wait(r: Request, field: str = "content") -> None:
    r.begin()
    for text in ("<think>", *THOUGHTS[:2]):
        r.event({field: text})
    if field != "content":
        r.event({"content": "\n<"})  # what it begins shows later
    r.wait_until_gone()


def repeat_the_thought(r: Request) -> None:
    r.begin()
    r.event({"reasoning_content": r.begun.removeprefix("<think>").partition("</think>")[0]})
    for text in ANSWER:
        r.event({"content": text})
    r.end(tokens=r.tokens + len(r.begun.split()))


STEERED: dict[str, Callable[[Request], Any]] = {
    "thinks": steered,
    "ignores_constraints": lambda r: steered(r, constrains=False),
    "refuses_constraints": lambda r: r.error(400, "no grammars") if "response_format" in r.body else steered(r),
    "refuses_large_constraints": lambda r: (
        r.error(400, "too complex") if len(str(r.body.get("response_format"))) > 300 else steered(r)
    ),
    "opens_new_turns": lambda r: steered(r, tokens=5 if r.begun else 0),
    "drops_begun_turns": lambda r: steered(r, turns=0),
    "refuses_begun_turns": lambda r: r.error(400, "the last message must be the user's") if r.begun else steered(r),
    "begins_anew": lambda r: steered(
        r, behind=["<think>", *THOUGHTS, "</think>\n\n", *ANSWER] if second(r) else ANSWER
    ),
    "repeats_the_thought_alone": lambda r: repeat_the_thought(r) if second(r) else steered(r),
    "stops_thinking": lambda r: steered(r) if r.begun or r.body["max_tokens"] < 100 else think_and_wait(r),
    "stops_before_a_tag": lambda r: (
        steered(r) if r.begun or r.body["max_tokens"] < 100 else think_and_wait(r, "reasoning")
    ),
    "dies_between": lambda r: r.reset() if second(r) else steered(r),
    "dies_behind_the_thought": lambda r: r.some().reset() if second(r) else steered(r),
    "hangs_between": lambda r: r.wait_until_gone() if second(r) else steered(r),
    "loads_between": lambda r: r.error(503, "later") if second(r) else steered(r),
    "resizes_between": lambda r: steered(r, tokens=-19 if second(r) else 0),
    "opens_new_turns_later": lambda r: steered(r, tokens=60 if second(r) else 0),
    "writes_nothing_later": lambda r: steered(r, behind=[] if second(r) else ANSWER),
    "answers_in_prose": lambda r: steered(r, behind=["It is the red one."]),
    "cuts_behind_a_box": lambda r: steered(r, behind=ANSWER[:1], cut=True),
    "cuts_before_a_box": lambda r: steered(r, behind=["["], cut=True),
    "cuts_a_number": lambda r: steered(r, behind=['[{"bbox_2d": [1, 2, 30, 4'], cut=True),
}
WAYS |= STEERED


class Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client left
            self.answer(*self.read())

    def read(self) -> tuple[str, str, str, dict[str, str], bytes]:
        data = b""
        while b"\r\n\r\n" not in data and (more := self.request.recv(65536)):
            data += more
            if data.startswith(b"\x16"):  # TLS, which is not spoken here
                self.request.sendall(b"HTTP/1.1 400 x\r\n\r\n")
                raise OSError
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)) and (more := self.request.recv(65536)):
            body += more
        method, path, _ = first.split(" ") if first else ("", "//", "")
        _, name, rest = path.split("/", 2)
        return method, name, "/" + rest, headers, body

    def answer(self, method: str, name: str, path: str, headers: dict[str, str], body: bytes) -> None:
        r = Request(self.request, name, path, headers, None)
        if path in ("/asked", "/gone"):
            r.tell(getattr(clock, path[1:])[name].wait(WAIT))
        elif path in ("/times", "/v1/models"):
            r.tell(clock.times[name] if path == "/times" else LISTS.get(name, MODELS))
        elif method != "POST" or path != "/v1/chat/completions" or name not in WAYS:
            r.error(404, "Not Found")
        else:
            r.body = json.loads(body)
            clock.times[name] += 1
            clock.asked[name].set()
            WAYS[name](r)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 256


def main(handler: type[Handler] = Handler) -> None:
    server = Server(("127.0.0.1", 0), handler)
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
