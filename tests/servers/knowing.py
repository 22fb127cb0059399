"""Servers that know the drawn pictures of `segzero doctor --server` and answer with their boxes; most have one fault.

python -m tests.servers.knowing    # as tests.servers.misbehaving: the first part of a path says the way
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image as PIL
from tokenizers import Tokenizer

from segzero_ros.core.known_pictures import KnownPicture, draw_known_pictures
from segzero_ros.models.checkpoints import EMBEDDED
from segzero_ros.models.server_probes import LONG
from tests.servers import misbehaving
from tests.servers.misbehaving import Request, clock

CELL = 16  # pixels of the demo profile's cells
OBEYED = "747 apples"
tokenizer = Tokenizer.from_file(str(EMBEDDED / "reasoner" / "tokenizer.json"))
running: Counter[str] = Counter()
long_ones: Counter[str] = Counter()
beside = threading.Event()  # a request came while a long answer was written

known = cache(draw_known_pictures)


@dataclass
class Way:
    """What a server does; the defaults are right."""

    move: Callable[[np.ndarray, float], Any] = lambda box, side: box
    side: Callable[[int], int] = lambda side: side  # of the picture that it counts
    count: Callable[[int], int] = lambda tokens: tokens
    constraint: str = "obeyed"  # or "ignored", "refused"
    begun_turns: str = "obeyed"  # or "refused", "left": for a turn of its own
    piece: int = 4  # characters of an event
    field: str = "content"  # of the thought
    stops: bool = True  # when the client leaves
    seeds: str = "obeyed"  # or "ignored", "forgotten"
    answers: int = 1 << 30  # requests, before it breaks connections

    def __call__(self, r: Request) -> None:
        if clock.times[r.way] > self.answers:
            r.reset()
            return
        running[r.way] += 1
        left = False
        try:
            left = self._answer(r)
        except OSError:
            left = True
        finally:
            if self.stops or not left:
                running[r.way] -= 1

    def _answer(self, r: Request) -> bool:
        """Whether the client left."""
        words = "".join(p.get("text", "") for p in r.parts)
        if words == LONG:
            return self._write_long(r)
        beside.set()
        tag = r.body.get("response_format")
        if tag and self.constraint == "refused":
            r.error(400, "structural tags are not supported")
            return False
        if r.begun and self.begun_turns == "refused":
            r.error(400, "the last message must be the user's")
            return False
        if tag and self.constraint == "obeyed":
            narrow = "apples" in json.dumps(tag)
            self._send(r, "", OBEYED if narrow else "<answer>[]</answer>", words)
        elif r.body["temperature"]:
            seed = {"obeyed": r.body.get("seed"), "ignored": 0, "forgotten": clock.times[r.way]}[self.seeds]
            self._send(r, "", f"drawn with {seed}", words)
        elif (picture := _recognise(r)) is not None:
            side = len(picture.image)
            box = [round(float(v)) for v in self.move(np.array(picture.box), side)]
            answer = json.dumps([{"bbox_2d": box, "point_2d": box[:2], "label": "it"}])
            self._send(r, "It is there, where it was drawn.", f"<answer>{answer}</answer>", words)
        else:
            self._send(r, "", "banana", words)
        return False

    def _write_long(self, r: Request) -> bool:
        """The first is written to its end once another request came; the client of the second leaves."""
        long_ones[r.way] += 1
        beside.clear()
        if not r.body["stream"]:
            r.tell({})
            return False
        r.begin()
        r.event({"content": "one "})
        if long_ones[r.way] % 2 == 0:
            r.wait_until_gone()
            return True
        beside.wait(misbehaving.WAIT)
        r.event({"content": "two"})
        r.end(tokens=1)
        return False

    def _send(self, r: Request, thought: str, answer: str, words: str) -> None:
        if not r.body["stream"]:
            r.tell({"choices": [{"message": {"content": answer, self.field: thought or "hm"}}]})
            return
        inside = self.field == "content"
        text = f"<think>{thought}</think>{answer}" if thought and inside else answer
        pieces = [
            (self.field, thought[i : i + self.piece]) for i in range(0, 0 if inside else len(thought), self.piece)
        ]
        pieces += [("content", text[i : i + self.piece]) for i in range(0, len(text), self.piece)]
        r.begin()
        for field, piece in pieces[: r.body["max_tokens"]]:
            r.event({field: piece})
        usage = {
            "prompt_tokens": self.count(self._tokens(r, words)),
            "completion_tokens": (len(thought + text) + 3) // 4,
        }
        r.event({}, "stop" if len(pieces) <= r.body["max_tokens"] else "length")
        r.chunk(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        r.chunk(b"data: [DONE]\n\n")
        r.chunk(b"")

    def _tokens(self, r: Request, words: str) -> int:
        square = _square(r)
        cells = (self.side(len(square)) // CELL) ** 2 + 2 if square is not None else 0
        begun = 6 * (self.begun_turns == "left") + len(tokenizer.encode(r.begun, add_special_tokens=False).ids)
        return 10 + len(tokenizer.encode(words, add_special_tokens=False).ids) + cells + begun * bool(r.begun)


def _square(r: Request) -> np.ndarray | None:
    url = next((p["image_url"]["url"] for p in r.parts if p["type"] == "image_url"), "")
    return np.asarray(PIL.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) if url else None


def _recognise(r: Request) -> KnownPicture | None:
    square = _square(r)
    if square is None:
        return None
    return next((k for k in known(len(square)) if np.array_equal(k.image, square)), None)


def _mirrored(box: np.ndarray, side: float) -> list[float]:
    return [side - box[2], box[1], side - box[0], box[3]]


misbehaving.WAYS.clear()
misbehaving.WAYS.update(
    knows=Way(),
    shows_a_smaller_picture=Way(move=lambda box, side: box * 0.72),
    writes_thousandths=Way(move=lambda box, side: box * 1000 / side),
    swaps=Way(move=lambda box, side: box[[1, 0, 3, 2]]),
    mirrors=Way(move=_mirrored),
    shifts=Way(move=lambda box, side: box + 40),
    pads=Way(move=lambda box, side: box * 0.6 + np.array([0, 30, 0, 30])),
    points_anywhere=Way(move=lambda box, side: np.array([90 * (box[0] > 100), 0, 120 + 40 * (box[1] > 100), 25])),
    resizes=Way(side=lambda side: side * 3 // 4),
    halves_counts=Way(count=lambda tokens: tokens // 2),
    ignores_the_constraint=Way(constraint="ignored"),
    refuses_the_constraint=Way(constraint="refused"),
    opens_new_turns=Way(begun_turns="left"),
    refuses_begun_turns=Way(begun_turns="refused"),
    sends_all_at_the_end=Way(piece=10_000),
    ignores_a_cancel=Way(stops=False),
    thinks_in_reasoning=Way(field="reasoning"),
    thinks_in_reasoning_content=Way(field="reasoning_content"),
    ignores_seeds=Way(seeds="ignored"),
    forgets_seeds=Way(seeds="forgotten"),
    dies_behind_the_check=Way(answers=3),
)


class Handler(misbehaving.Handler):
    def answer(self, method: str, name: str, path: str, headers: dict[str, str], body: bytes) -> None:
        if path == "/metrics":
            text = f'# HELP vllm:num_requests_running x\nvllm:num_requests_running{{engine="0"}} {running[name]:.1f}\n'
            Request(self.request, name, path, headers, None).whole(200, text.encode(), "content-type: text/plain")
        else:
            super().answer(method, name, path, headers, body)


if __name__ == "__main__":
    misbehaving.main(Handler)
