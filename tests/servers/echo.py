"""A server of chat completions that does well and is fast: a process of its own, on asyncio alone.

    python -m tests.servers.echo    # prints its port, ends when its standard input does

Its answer is a name made of the picture and the words that it was asked (`name_of`), streamed in pieces: an answer that
reaches another client than the one who asked is noticed. It counts as Qwen2.5-VL does: a token for each word and for
each 28 pixels squared, and more. At http://127.0.0.1:PORT/64/0/v1 it answers once 64 clients have asked; at /1/12/v1
each for itself, with 12 ms behind each piece. GET /open tells how many other connections are open, once there is none
or after a while; GET /most how many there were at once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import struct
import sys
import threading
from collections import Counter, defaultdict
from contextlib import suppress
from typing import Any

WAIT = 50.0  # seconds after which a test that waits for nothing fails
PIECES = 40  # of an answer, about as many as a short one has tokens


def name_of(png: bytes, words: str) -> str:
    return hashlib.sha256(png + words.encode()).hexdigest()


class Echo:
    """All of its state is touched by one thread."""

    def __init__(self) -> None:
        self.open = self.most = 0
        self.changed = asyncio.Condition()
        self.asked: Counter[int] = Counter()
        self.together: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        with suppress(OSError, asyncio.IncompleteReadError):
            await self.answer(reader, writer)
            writer.close()
            await writer.wait_closed()
        async with self.changed:
            self.open -= 1
            self.changed.notify_all()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, and then the other side is waited for: it shall close, as it said."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        _, path, _ = head.split(" ", 2)
        if path.endswith("/chat/completions"):
            length = int(head.partition("content-length:")[2].split()[0])
            together, pause = map(int, path.split("/")[1:3])
            await self.stream(json.loads(await reader.readexactly(length)), together, pause / 1000, writer)
        elif path == "/open":
            with suppress(asyncio.TimeoutError):
                async with self.changed:
                    await asyncio.wait_for(self.changed.wait_for(lambda: self.open == 1), WAIT)
            tell(writer, self.open - 1)
        else:
            tell(writer, self.most if path == "/most" else {"data": [{"id": "echo"}]})
        await writer.drain()
        await reader.read()

    async def stream(self, body: Any, together: int, pause: float, writer: asyncio.StreamWriter) -> None:
        parts = body["messages"][-1]["content"]
        words = "".join(p["text"] for p in parts if p["type"] == "text")
        pngs = [base64.b64decode(p["image_url"]["url"].partition(",")[2]) for p in parts if p["type"] == "image_url"]
        cells = sum((struct.unpack(">I", png[16:20])[0] // 28) ** 2 + 2 for png in pngs)
        if body["max_tokens"] > 1:  # no load that looks whether the picture is seen
            self.asked[together] += 1
            if self.asked[together] >= together:
                self.together[together].set()
            await asyncio.wait_for(self.together[together].wait(), WAIT)
        writer.write(b"HTTP/1.1 200 x\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        text = f"<think>{name_of(b''.join(pngs), words)}</think><answer>[]</answer>"
        size = -(-len(text) // PIECES)
        for at in range(0, len(text), size):
            event(writer, {"choices": [{"index": 0, "delta": {"content": text[at : at + size]}}]})
            await writer.drain()
            await asyncio.sleep(pause)  # another one's piece comes in between
        event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 10 + len(words.split()) + cells, "completion_tokens": PIECES}
        event(writer, {"choices": [], "usage": usage})
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


def event(writer: asyncio.StreamWriter, body: Any) -> None:
    data = b"data: " + json.dumps(body).encode() + b"\n\n"
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def tell(writer: asyncio.StreamWriter, what: Any) -> None:
    data = json.dumps(what).encode()
    writer.write(
        b"HTTP/1.1 200 x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data)
    )


async def serve() -> None:
    server = await asyncio.start_server(Echo().connected, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
