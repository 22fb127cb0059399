"""What a training's steps need, made by a thread while the steps before them are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def made_ahead(make: Callable[[int], T], steps: Iterable[int], ahead: int = 5) -> Generator[T, None, None]:
    """What `make` gives for every step, in their order, `ahead` of them begun before they are asked for.

    Close it where the steps end early. What `make` raises is raised where its step is asked for.
    """
    coming = iter(steps)
    pool = ThreadPoolExecutor(1, "batches")
    try:
        begun = deque(pool.submit(make, step) for step in islice(coming, ahead))
        while begun:
            made = begun.popleft().result()
            begun.extend(pool.submit(make, step) for step in islice(coming, 1))
            yield made
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
