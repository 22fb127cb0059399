"""A server whose greedy answer is one box, and whose samples have it in three of four.

    python -m tests.servers.unsure    # prints its port, ends when its standard input does

At /hangs/v1 it never answers a sample. Else as tests/servers/misbehaving.py, whose way of counting it has.
"""

from __future__ import annotations

from tests.servers import misbehaving
from tests.servers.misbehaving import Request

BOX = '<think>so</think><answer>[{"bbox_2d": [40, 40, 80, 80]}]</answer>'
NONE = "<think>so</think><answer>[]</answer>"


def answer(r: Request) -> None:
    sample = r.body.get("seed") if r.body["temperature"] else None
    if sample is not None and r.way == "hangs":
        r.wait_until_gone()
        return
    r.begin()
    r.event({"content": NONE if sample is not None and sample % 4 == 3 else BOX})
    r.end()


if __name__ == "__main__":
    misbehaving.WAYS |= {"answers": answer, "hangs": answer}
    misbehaving.main()
