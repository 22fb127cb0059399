"""What crosses a function or thread boundary: frozen dataclasses with their shapes, units and order.

Conventions, once for the whole package:
* image: uint8 array (H, W, 3), RGB.
* source: the camera's image; square: the resized image that the reasoning model looks at.
* box: (x_min, y_min, x_max, y_max) in pixels, float; x_max and y_max are exclusive edges.
* point: (x, y) in pixels, float.
* mask: bool array (H, W) at source resolution.
* score: float in [0, 1], the IoU that the segmenter predicts for its own mask; no class probability.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.space import Lifted, Scene

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Logits = NDArray[np.float16]  # (h, w), a mask as small as the segmenter makes it: above 0 is inside


class Status(str, Enum):
    """How a request ended. The names are the constants of segzero_msgs/Segmentation."""

    OK = "OK"
    NO_OBJECT = "NO_OBJECT"  # an answer: nothing in the image matches
    PARSE_ERROR = "PARSE_ERROR"
    BACKEND_ERROR = "BACKEND_ERROR"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    STALE_IMAGE = "STALE_IMAGE"
    NO_IMAGE = "NO_IMAGE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NOT_READY = "NOT_READY"
    BAD_INSTRUCTION = "BAD_INSTRUCTION"
    UNSUPPORTED_ENCODING = "UNSUPPORTED_ENCODING"
    BUSY = "BUSY"  # too many callers wait already, or a goal runs
    BAD_REQUEST = "BAD_REQUEST"  # a prompt that is none, an answer that is not kept, a wish that nothing here can do


class SegzeroError(Exception):
    """A failure that has a typed status and a sentence for a person."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def timed_out(seconds: float) -> SegzeroError:
    """A request's time is over."""
    return SegzeroError(Status.TIMEOUT, f"there was no answer within {seconds:g} s")


class Stopped(Exception):
    """A model saw its cancel flag in the middle of its work."""


@dataclass(frozen=True)
class Candidate:
    """One object as it was named or pointed at, not yet a mask.

    negative: points that are not on it. earlier: the mask that is to become better.
    """

    box: Box | None
    points: tuple[Point, ...]
    label: str = ""
    negative: tuple[Point, ...] = ()
    earlier: Logits | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Prompt:
    """One object pointed at instead of named: a box, points, or both; source pixels.

    positive: for each point whether it is on the object. corrects: (request_id, index) of an earlier answer's instance,
    or None for a new object.
    """

    box: Box | None = None
    points: tuple[Point, ...] = ()
    positive: tuple[bool, ...] = ()
    corrects: tuple[str, int] | None = None


@dataclass(frozen=True)
class Answer:
    """What the parser read from a text. status is OK, NO_OBJECT or PARSE_ERROR.

    candidates: in the order of the text; coordinates in the profile's convention until
    `geometry` maps them to source pixels. reasons: one sentence per thing that was wrong,
    also when other objects survived.
    """

    status: Status
    candidates: tuple[Candidate, ...] = ()
    reasoning: str = ""
    answer: str = ""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class PackedMask:
    """A mask as the bits of its tight box: whole masks of many objects would fill the memory. `geometry.pack` makes it.

    shape: (H, W) of the whole mask. box: its tight box in whole pixels; all 0 when the mask is empty.
    bits: the box row by row, eight pixels a byte, as numpy.packbits writes them.
    """

    shape: tuple[int, int]
    box: tuple[int, int, int, int]
    area: int  # pixels
    bits: bytes = field(repr=False)

    @property
    def window(self) -> tuple[slice, slice]:
        """Where the box is: `image[mask.window]` has the shape of `mask.crop()`."""
        x1, y1, x2, y2 = self.box
        return slice(y1, y2), slice(x1, x2)

    def crop(self) -> Mask:
        """What is inside the box, made anew at every call."""
        x1, y1, x2, y2 = self.box
        packed = np.frombuffer(self.bits, np.uint8)
        return np.unpackbits(packed, count=(y2 - y1) * (x2 - x1)).reshape(y2 - y1, x2 - x1).view(np.bool_)

    def full(self) -> Mask:
        """(H, W), made anew at every call."""
        whole = np.zeros(self.shape, np.bool_)
        whole[self.window] = self.crop()
        return whole


@dataclass(frozen=True)
class Instance:
    """One object of the answer with its own mask, at source resolution."""

    index: int  # 1, 2, ...: its value in the label image
    label: str
    score: float
    packed: PackedMask = field(repr=False)
    box: Box  # tight box of the mask; the prompt box when the mask is empty
    prompt_box: Box | None
    prompt_points: tuple[Point, ...]
    area: int  # pixels
    lifted: Lifted | None = field(default=None, repr=False)  # None: nobody asked for 3D
    negative_points: tuple[Point, ...] = ()  # what was said not to be on it
    confidence: float | None = None  # 0 to 1: how well the reasoner, asked again, agrees; None: not known
    logits: Logits | None = field(default=None, repr=False, compare=False)  # None: a correction cannot use them

    @property
    def mask(self) -> Mask:
        """(H, W), made anew at every access; `packed.crop()` is its tight box alone."""
        return self.packed.full()


@dataclass(frozen=True)
class Timing:
    """Seconds on a monotonic clock, and token counts."""

    queue: float = 0.0
    preprocess: float = 0.0
    first_token: float = 0.0
    reason: float = 0.0
    segment: float = 0.0
    postprocess: float = 0.0
    total: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dropped_frames: int = 0  # camera frames taken since the answer before and not used


@dataclass(frozen=True)
class Segmentation:
    """The whole answer to one image and one instruction.

    height, width: of the source image. instances: ordered as the model named them. text: all that the model wrote.
    scene: what the instances were lifted from; None where nothing was.
    """

    status: Status
    message: str
    instruction: str
    height: int
    width: int
    instances: tuple[Instance, ...] = ()
    reasoning: str = ""
    answer: str = ""
    timing: Timing = field(default_factory=Timing)
    model: str = ""
    text: str = ""
    scene: Scene | None = field(default=None, repr=False)


# Events of a streamed request, in this order; Reasoning and Boxes may come many times, in turn, Boxes and Masks not at
# all.


@dataclass(frozen=True)
class Queued:
    instruction: str


@dataclass(frozen=True)
class Reasoning:
    text: str  # all text so far
    delta: str  # what came since the last event


@dataclass(frozen=True)
class Boxes:
    candidates: tuple[Candidate, ...]  # all that are named so far; source pixels
    whole: bool = True  # the answer is complete: these are the ones that get masks


@dataclass(frozen=True)
class Masks:
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Done:
    result: Segmentation


Event = Queued | Reasoning | Boxes | Masks | Done


@dataclass(frozen=True)
class Sampling:
    """Sampling settings; None in their place means greedy. Equal seeds and batches give equal texts.

    temperature: above 0. top_p: in (0, 1], the share of probability that tokens are drawn from.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"temperature {self.temperature} must be above 0 and top_p {self.top_p} in (0, 1]")


@dataclass(frozen=True)
class ThoughtBudget:
    """How long a thought may be; then it is closed, and the answer comes. None: no such limit.

    tokens: of the text. seconds: since the first token. 0 of either: no thought at all.
    """

    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None and type(self.tokens) is not int:
            raise ValueError(f"a thought has a whole number of tokens, not {self.tokens!r}")
        if any(v is not None and not v >= 0 for v in (self.tokens, self.seconds)):
            raise ValueError(f"a thought's budget is not negative: {self.tokens} tokens, {self.seconds} seconds")


@dataclass(frozen=True)
class Generation:
    """One text of the reasoning model."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    truncated: bool  # the token limit ended it
    cancelled: bool
    first_token: float  # seconds until the first token
    thought_ended: bool = False  # not by the model: by its budget, or to leave the answer its tokens


@dataclass(frozen=True)
class LoadedModel:
    """What an adapter loaded, for logs, diagnostics and `segzero doctor`."""

    name: str
    revision: str
    parameters: int
    dtype: str
    device: str
    memory_bytes: int
    adapter: str = ""  # merged into it

    @property
    def full_name(self) -> str:
        name = f"{self.name}@{self.revision}" if self.revision else self.name
        return f"{name} with {self.adapter}" if self.adapter else name

    def __str__(self) -> str:
        name = self.full_name
        if not self.parameters:  # a server keeps that to itself
            return f"{name} ({self.device})"
        size = f"{self.parameters / 1e6:.1f} M parameters, {self.memory_bytes / 1e6:.0f} MB"
        return f"{name} ({size}, {self.dtype} on {self.device})"


class Cancel(threading.Event):
    """Set it and the model stops: before the next token, or before the next block of a pass over many."""


OnText = Callable[[int, str], None]  # (index in the batch, text piece)
OnProgress = Callable[[float, str], None]  # (0 to 1, what is being done)


class Reasoner(Protocol):
    """Images (square already) and prompts in, texts out."""

    info: LoadedModel

    def generate(
        self,
        squares: list[Image],
        prompts: list[str],
        *,
        on_text: OnText | None = None,
        cancel: Cancel | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int | None = None,
        thought_budget: ThoughtBudget | None = None,
    ) -> list[Generation]:
        """Texts in the order of the prompts; at most max_new_tokens each, by default the profile's."""
        ...


@runtime_checkable
class WithLogits(Protocol):
    """What a segmenter's masks may offer besides."""

    def logits(self, index: int) -> Logits | None:
        """What the mask was made from; None where the segmenter could not read it again."""
        ...


class Segmenter(Protocol):
    """Encode an image once, prompt it often. The masks may be `WithLogits`."""

    info: LoadedModel

    def encode(self, image: Image, *, cancel: Cancel | None = None) -> object:
        """Features of a source image (H, W, 3); opaque to the caller. Raises Stopped once `cancel` is set."""
        ...

    def segment(
        self,
        features: object,
        boxes: list[Box | None],
        points: list[tuple[Point, ...]],
        *,
        cancel: Cancel | None = None,
    ) -> Sequence[tuple[Mask, float]]:
        """One (mask, score) per prompt, in source pixels; best of the multimask outputs by predicted IoU.

        A mask may be made when it is asked for, so ask once and keep few. Raises Stopped once `cancel` is set (also
        while masks are made), and SegzeroError(BACKEND_ERROR) for numbers that are not finite.
        """
        ...

    def segment_pointed(
        self, features: object, candidates: Sequence[Candidate], *, cancel: Cancel | None = None
    ) -> Sequence[tuple[Mask, float]]:
        """As `segment`, for what a person points at: with points that are not on it, and with an earlier mask.

        A single click is ambiguous and gets the best of the multimask outputs; anything more gets the single one.
        """
        ...
