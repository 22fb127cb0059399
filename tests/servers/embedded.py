"""A server of OpenAI's chat completions in front of the embedded reasoner: a process, with http.server alone.

It holds answers to a structural tag, by llguidance, and goes on with a turn that was begun. What it does not know it
ignores, as servers do. On the path /deaf/v1 it ignores constraints, too, and on /forgetful/v1 it opens a new turn.

python -m tests.servers.embedded    # prints its port, ends when its standard input does
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import json
import os
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from PIL import Image as PIL
from transformers import LogitsProcessor

from segzero_ros.core.answer_schema import _lark_thought
from segzero_ros.core.contract import Cancel, Sampling
from segzero_ros.models.grammar import Grammar, Reading
from segzero_ros.models.reasoner_transformers import TransformersReasoner, load_reasoner
from segzero_ros.profiles import load_profile

NAME = "embedded"


NEW_TURN = "<|im_end|>\n<|im_start|>assistant\n"


class Served(TransformersReasoner):
    """begun: of the model's turn, by this request. tag: that it is held to."""

    begun: list[int] = []  # noqa: RUF012
    tag: dict[str, Any] | None = None

    def prompt_ids(self, prompt: str) -> list[int]:
        return [*super().prompt_ids(prompt), *self.begun]

    def _steering(self, texts: int, begin: int, *_: Any) -> list[Any]:
        return [Constraint(self, self.tag, begin)] if self.tag else []


class Constraint(LogitsProcessor):
    texts: list[Any] = [types.SimpleNamespace(cut=False)]  # noqa: RUF012

    def __init__(self, reasoner: Served, tag: dict[str, Any], begin: int) -> None:
        self.grammar = copy.copy(Handler.grammar)
        self.grammar._lark = lark(tag["format"])
        self.reading: Reading = self.grammar.reading()
        self.read, self.ends = begin, sorted(reasoner._ends)

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.reading.read(ids[0, self.read :].tolist())
        self.read = ids.shape[1]
        return scores.masked_fill(~self.reading.allowed(), -torch.inf)


def lark(form: dict[str, Any]) -> str:
    """A regular expression, or a thought and one behind it, as `answer_schema` writes them for xgrammar."""
    if form["type"] == "regex":
        return f"start: ANSWER\nANSWER: /{form['pattern']}/"
    assert form["type"] == "sequence", form
    thought, answer = form["elements"]
    optional = thought["type"] == "optional"
    begin = (thought["content"] if optional else thought)["begin"]
    first = "THOUGHT?" if optional else "THOUGHT"
    return f"start: {first} ANSWER\n{_lark_thought(begin)}\nANSWER: /{answer['pattern']}/"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    reasoner: Served
    grammar: Grammar
    model = threading.Lock()
    events: list[str] = []  # noqa: RUF012 - what the test asks for afterwards

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        path = self.path.replace("/deaf", "").replace("/forgetful", "")
        found: Any = {"/v1/models": {"data": [{"id": NAME, "max_model_len": 4096}]}, "/events": self.events}
        self.answer(200 if path in found else 404, found.get(path, {"error": {"message": "no such path"}}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.path.endswith("/v1/chat/completions") or body["model"] != NAME:
            return self.answer(404, {"error": {"message": f"the model {body['model']} does not exist"}})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.stream(body)

    def answer(self, code: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, body: Any) -> None:
        *_, turn = (m for m in body["messages"] if m["role"] == "user")
        parts = turn["content"]
        words = "".join(p["text"] for p in parts if p["type"] == "text")
        pictures = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
        gone = Cancel()

        def say(index: int, text: str) -> None:
            try:
                self.event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
            except OSError:
                gone.set()

        with self.model:
            last = body["messages"][-1]
            begun = last["content"] if last["role"] == "assistant" else ""
            if begun and (self.path.startswith("/forgetful") or not body.get("continue_final_message")):
                begun += NEW_TURN
            tag = body.get("response_format", {"type": "text"})
            ignored = tag["type"] != "structural_tag" or self.path.startswith("/deaf")
            self.reasoner.begun = self.reasoner._encode(begun)
            self.reasoner.tag = None if ignored else tag
            found = generate(self.reasoner, words, pictures, body, say, gone)
        if gone.is_set():
            self.events.append(f"gone after {found.completion_tokens}")
            return
        self.event({"choices": [{"delta": {}, "finish_reason": "length" if found.truncated else "stop"}]})
        usage = {"prompt_tokens": found.prompt_tokens, "completion_tokens": found.completion_tokens}
        self.event({"choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, body: Any) -> None:
        self.chunk(b"data: " + json.dumps(body).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def generate(reasoner: Any, words: str, pictures: list[str], body: Any, say: Any, gone: Cancel) -> Any:
    """A picture of another size, or none, is counted as a server would, and not looked at."""
    own = reasoner.profile.square
    square = np.zeros((0, 0, 3), np.uint8)
    if pictures:
        square = np.asarray(PIL.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2]))).convert("RGB"))
    side = len(square)
    if side != own:
        nothing = [np.zeros((own, own, 3), np.uint8)]
        (found,) = reasoner.generate(nothing, [words], on_text=say, max_new_tokens=body["max_tokens"])
        around = 0 if side else 2
        tokens = found.prompt_tokens - reasoner.image_tokens - around + (side // (own // 14)) ** 2
        return dataclasses.replace(found, prompt_tokens=tokens)
    sampling = Sampling(body["temperature"], body["top_p"], body["seed"]) if body["temperature"] else None
    more = {"sampling": sampling, "max_new_tokens": body["max_tokens"]}
    return reasoner.generate([square], [words], on_text=say, cancel=gone, **more)[0]


def main() -> None:
    torch.set_num_threads(1)
    one = load_reasoner(load_profile("demo"), constrain=True)
    assert one._grammar is not None
    Handler.reasoner, Handler.grammar = Served(one.model, one.tokenizer, one.profile, one.info), one._grammar
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
