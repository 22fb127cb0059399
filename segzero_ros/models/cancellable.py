"""Waiting that a flag ends: coroutines run to their end in the caller's thread, or until the flag is set."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from segzero_ros.core.contract import Cancel

TICK = 0.05  # seconds between two looks at the flag


def run_until_set(work: Coroutine[Any, Any, None], cancel: Cancel | None) -> bool:
    """Whether it ran to its end; False where the flag ended it. Raises what it raises."""
    watched = _watched(work, cancel)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(watched)
    with ThreadPoolExecutor(1) as pool:  # a notebook's cell: this thread has a loop of its own, which runs
        return pool.submit(_run, watched).result()


async def all_or_none(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs them at once. The first that fails ends the others and is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def _watched(work: Coroutine[Any, Any, None], cancel: Cancel | None) -> bool:
    tasks = [asyncio.ensure_future(work)]
    if cancel is not None:
        tasks.append(asyncio.ensure_future(_until_set(cancel)))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            return False
        tasks[0].result()
        return True
    finally:
        await _end(tasks)


async def _until_set(cancel: Cancel) -> None:
    while not cancel.is_set():
        await asyncio.sleep(TICK)


async def _end(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _run(work: Coroutine[Any, Any, bool]) -> bool:
    """As asyncio.run, which would wait for a name that is still looked up in a thread of its own."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        if rest := asyncio.all_tasks(loop):  # after Ctrl-C
            for task in rest:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
