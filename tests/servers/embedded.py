"""A server of OpenAI's chat completions in front of the embedded reasoner: a process, with http.server alone.

python -m tests.servers.embedded    # prints its port, ends when its standard input does
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from PIL import Image as PIL

from segzero_ros.core.contract import Cancel, Sampling
from segzero_ros.models.reasoner_transformers import TransformersReasoner, load_reasoner
from segzero_ros.profiles import load_profile

NAME = "embedded"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    reasoner: TransformersReasoner
    model = threading.Lock()
    events: list[str] = []  # noqa: RUF012 - what the test asks for afterwards

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        found: Any = {"/v1/models": {"data": [{"id": NAME, "max_model_len": 4096}]}, "/events": self.events}
        self.answer(200 if self.path in found else 404, found.get(self.path, {"error": {"message": "no such path"}}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/v1/chat/completions" or body["model"] != NAME:
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
        parts = body["messages"][-1]["content"]
        words = "".join(p["text"] for p in parts if p["type"] == "text")
        pictures = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
        gone = Cancel()

        def say(index: int, text: str) -> None:
            try:
                self.event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
            except OSError:
                gone.set()

        with self.model:
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
        (found,) = reasoner.generate([np.zeros((own, own, 3), np.uint8)], [words], on_text=say, max_new_tokens=1)
        around = 0 if side else 2
        tokens = found.prompt_tokens - reasoner.image_tokens - around + (side // (own // 14)) ** 2
        return dataclasses.replace(found, prompt_tokens=tokens)
    sampling = Sampling(body["temperature"], body["top_p"], body["seed"]) if body["temperature"] else None
    more = {"sampling": sampling, "max_new_tokens": body["max_tokens"]}
    return reasoner.generate([square], [words], on_text=say, cancel=gone, **more)[0]


def main() -> None:
    torch.set_num_threads(1)
    Handler.reasoner = load_reasoner(load_profile("demo"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
