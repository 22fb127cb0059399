"""Prompts, images and times of requests. Their form only: what fits the image is checked when that is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from segzero_ros.core.contract import Prompt, SegzeroError, Status

MAX_TIMEOUT = 86400.0  # seconds; the parameter's bound holds for a request's own, too


def prompts_of_request(messages: Sequence[Any]) -> tuple[tuple[Prompt, ...], SegzeroError | None]:
    """The prompts, and why they cannot be taken; a box of four zeros is none."""
    prompts, problem = [], None
    for number, m in enumerate(messages, 1):
        edges = (m.box.x_min, m.box.y_min, m.box.x_max, m.box.y_max)
        points = tuple((p.x, p.y) for p in m.points)
        positive = tuple(bool(v) for v in m.positive) or (True,) * len(points)
        if len(positive) != len(points) and problem is None:
            sentence = f"prompt {number} has {len(points)} points and says of {len(positive)} whether they are positive"
            problem = SegzeroError(Status.BAD_REQUEST, sentence)
        if m.index and not m.request_id and problem is None:
            sentence = f"prompt {number} has the index {m.index} and no request_id of the answer that it corrects"
            problem = SegzeroError(Status.BAD_REQUEST, sentence)
        corrects = (m.request_id, int(m.index)) if m.request_id else None
        prompts.append(Prompt(edges if any(edges) else None, points, positive, corrects))
    return tuple(prompts), problem


def timeout_of_request(timeout: float) -> tuple[float, SegzeroError | None]:
    """A request's own timeout, and why it cannot be taken; 0 stands for the parameter's."""
    if math.isfinite(timeout) and timeout >= 0:
        return min(timeout, MAX_TIMEOUT), None
    return 0.0, SegzeroError(Status.BAD_REQUEST, f"timeout is {timeout:g} s; 0 stands for the parameter's")


def image_of_request(image: Any) -> tuple[Any, SegzeroError | None]:
    """The image that came with a request, None for the camera's; and why it cannot be taken."""
    if image.width:
        return image, None
    if image.height or len(image.data) or image.encoding:
        return None, SegzeroError(Status.BAD_REQUEST, "the image has no width; one for the camera's has no fields set")
    return None, None


def earliest_of_request(stamp: Any) -> tuple[int, SegzeroError | None]:
    """Nanoseconds, and why they cannot be taken; 0 for none."""
    value = int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
    return value, SegzeroError(Status.BAD_REQUEST, "not_before is negative") if value < 0 else None
