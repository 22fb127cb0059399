"""A server of OpenAI's chat completions in front of the embedded reasoner: a process, with http.server alone.

It holds answers to a structural tag, by llguidance, and goes on with a turn that was begun. What it does not know it
ignores, as servers do. Others behave otherwise, each on a path of its own:
    /deaf/v1       ignores constraints
    /forgetful/v1  ends the turn that was begun and opens a new one
    /behind/v1     sets the turn that was begun behind what its template begins a turn with
    /parted/v1     sends the thought as `reasoning`

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


TURN = "<|im_start|>assistant\n"
OPEN, CLOSE = "<think>", "</think>"


class Served(TransformersReasoner):
    """begun: of the model's turn, by this request; None: nothing. tag: that it is held to."""

    begun: list[int] | None = None
    tag: dict[str, Any] | None = None

    def prompt_ids(self, prompt: str) -> list[int]:
        return super().prompt_ids(prompt) if self.begun is None else [*super().prompt_ids(prompt), *self.begun]

    def go_on(self, way: str, begun: str | None) -> None:
        self.begun = None if begun is None else self._encode(begun)
        opened = {"written": "", "opened": "<think>\n", "closed": "<think>\n\n</think>\n\n"}[self.profile.thinking]
        turn = "<|im_end|>\n" + TURN
        if begun is not None and way == "forgetful":
            self.begun = self._encode(begun + turn + opened)
        whole = begun is not None and way != "behind"
        self._after = self._encode(turn if whole else turn + opened)

    def _steering(self, texts: int, begin: int, *_: Any) -> list[Any]:
        return [Constraint(self, self.tag, begin)] if self.tag else []


class Constraint(LogitsProcessor):
    texts: list[Any] = [types.SimpleNamespace(cut=False, ended=False)]  # noqa: RUF012

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
    served: dict[str, Served]  # by how their template begins a turn
    grammar: Grammar
    model = threading.Lock()
    events: list[str] = []  # noqa: RUF012 - what the test asks for afterwards

    @property
    def way(self) -> str:
        """The first part of the path, where it is none of the server's own."""
        first = self.path.split("/")[1]
        return first if first in ("deaf", "forgetful", "behind", "parted") else ""

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        path = "/" + self.path.partition("/")[2].removeprefix(f"{self.way}/")
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

        thinking = "written"

        def say(index: int, text: str) -> None:
            nonlocal thinking
            field = "content"
            if self.way == "parted" and not begun:
                if text in (OPEN, CLOSE):  # each is one token of this model's
                    thinking = text
                    return
                field = "reasoning" if thinking == OPEN else "content"
            try:
                self.event({"choices": [{"index": 0, "delta": {field: text}, "finish_reason": None}]})
            except OSError:
                gone.set()

        last = body["messages"][-1]
        begun = last["content"] if last["role"] == "assistant" else None
        enabled = body.get("chat_template_kwargs", {}).get("enable_thinking")
        kind = "written" if enabled is None else "opened" if enabled else "closed"
        if kind == "opened":
            thinking = OPEN
        with self.model:
            reasoner = self.served[kind]
            continues = body.get("continue_final_message") and not body.get("add_generation_prompt", True)
            reasoner.go_on(self.way if continues else "forgetful", begun)
            tag = body.get("response_format", {"type": "text"})
            ignored = tag["type"] != "structural_tag" or self.way == "deaf"
            reasoner.tag = None if ignored else tag
            found = generate(reasoner, words, pictures, body, say, gone)
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
    Handler.grammar = one._grammar
    Handler.served = {
        kind: Served(one.model, one.tokenizer, dataclasses.replace(one.profile, thinking=kind), one.info)
        for kind in ("written", "opened", "closed")
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
