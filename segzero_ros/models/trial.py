"""A token of the prompt's pass and one more, an encoded picture and a mask, before anybody asks.

It fails by what the models raise, by numbers that are not finite and by memory; never by what they find.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from segzero_ros.core.contract import (
    Cancel,
    Image,
    OnProgress,
    Reasoner,
    Segmenter,
    SegzeroError,
    Status,
    Stopped,
)
from segzero_ros.core.failures import is_out_of_memory
from segzero_ros.core.geometry import square_image
from segzero_ros.core.profiles import Profile
from segzero_ros.core.prompt import build_prompt
from segzero_ros.core.text import first_line

HEIGHT, WIDTH = 720, 1280  # a camera's


def try_out(reasoner: Reasoner, segmenter: Segmenter, profile: Profile, tell: OnProgress, cancel: Cancel) -> None:
    """Raises SegzeroError: OUT_OF_MEMORY, CANCELLED, or NOT_READY with the reason."""
    try_segmenter(segmenter, lambda share, what: tell(0.3 * share, what), cancel)
    with _told_as_not_ready():
        tell(0.3, "trying the reasoner")
        square = square_image(drawn_picture(), profile.square)
        reasoner.generate([square], [build_prompt(profile, "the red disc")], cancel=cancel, max_new_tokens=2)
        if cancel.is_set():
            raise Stopped


def try_segmenter(segmenter: Segmenter, tell: OnProgress, cancel: Cancel) -> None:
    """As `try_out`, without a reasoner."""
    x, y = WIDTH / 2, HEIGHT / 2
    box, point = (x - 150, y - 150, x + 150, y + 150), (x, y)
    with _told_as_not_ready():
        tell(0.0, "trying the segmenter")
        features = segmenter.encode(drawn_picture(), cancel=cancel)
        found = segmenter.segment(features, [box], [(point,)], cancel=cancel)
        for _ in found:  # a mask is made when it is asked for
            pass


@contextmanager
def _told_as_not_ready() -> Iterator[None]:
    try:
        yield
    except Stopped:
        raise SegzeroError(Status.CANCELLED, "the load was cancelled") from None
    except SegzeroError as error:
        if error.status in (Status.CANCELLED, Status.OUT_OF_MEMORY):
            raise
        raise SegzeroError(Status.NOT_READY, f"the models cannot answer: {error.message}") from error
    except Exception as error:
        if is_out_of_memory(error):
            sentence = "the models fit into the memory, but a request does not"
            raise SegzeroError(Status.OUT_OF_MEMORY, sentence) from error
        sentence = f"the models cannot answer: {type(error).__name__}: {first_line(error)}"
        raise SegzeroError(Status.NOT_READY, sentence) from error


def drawn_picture() -> Image:
    """RGB (720, 1280, 3): a red disc on a grey ramp."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.repeat((xs * 255 // WIDTH).astype(np.uint8)[..., None], 3, 2)
    picture[(xs - WIDTH // 2) ** 2 + (ys - HEIGHT // 2) ** 2 < 140**2] = (220, 40, 30)
    return picture
