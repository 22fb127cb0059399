"""What a request is: who asks, by which rules, for what, and how it ended. core/requests.py decides about them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from segzero_ros.core.contract import (
    Boxes,
    Cancel,
    Candidate,
    Event,
    Prompt,
    Reasoning,
    Segmentation,
    SegzeroError,
    Status,
)
from segzero_ros.core.prompt import MAX_CHARS

# Prompts, or what makes them once the frame is known: frame, (height, width) -> prompts. It may raise SegzeroError.
Prompts = tuple[Prompt, ...] | Callable[[Any, tuple[int, int]], tuple[Prompt, ...]]


class Asker(Enum):
    """Where a request comes from. SERVICE is a call, whose answer is for the caller alone; ACTION is a goal, which goes
    before all others; all else are instructions. The answers of goals and instructions are published.
    """

    TOPIC = "~/instruction"
    COMMAND = "~/set_instruction"
    PARAMETER = "the parameter instruction"
    CLICK = "~/point"
    SERVICE = "~/segment"
    ACTION = "~/ask"


@dataclass(frozen=True)
class Rules:
    """The settings of the moment: seconds, seconds, characters, whether an instruction stands, and whether goals wait
    for models that load.
    """

    timeout: float = 120.0
    repeat_gap: float = 2.0
    max_chars: int = MAX_CHARS
    continuous: bool = False
    patient_goals: bool = True


@dataclass(eq=False)
class Series:
    """An instruction of continuous mode, asked again on newer frames.

    last: how its round before ended. owed: its last round was given up without a word, or there has been none yet.
    """

    instruction: str
    request_id: str
    by: Asker
    last: Status | None = None
    owed: bool = True

    def is_news(self, status: Status) -> bool:
        """Whether a round that ended so is published: a failure is said once, an interruption not at all."""
        if status is Status.CANCELLED:
            self.owed = True
            return False
        self.owed = False
        before, self.last = self.last, status
        answers = (Status.OK, Status.NO_OBJECT, Status.PARSE_ERROR)  # each about a frame of its own
        return status in answers or status is not before


class Stage(Enum):
    """How far a request is. The names are the constants of segzero_msgs/action/Segment's feedback."""

    WAITING_FRAME = "WAITING_FRAME"
    QUEUED = "QUEUED"
    REASONING = "REASONING"
    SEGMENTING = "SEGMENTING"
    LIFTING_3D = "LIFTING_3D"


class Watch:
    """What can be seen of a request while it runs. Written by the worker's thread, read by another one."""

    def __init__(self) -> None:
        self.stage = Stage.QUEUED
        self.text = ""  # all that the model has written
        self.boxes: tuple[Candidate, ...] = ()  # named so far, source pixels

    def on_event(self, event: Event) -> None:
        if isinstance(event, Reasoning):
            self.text = event.text
        elif isinstance(event, Boxes):
            self.boxes = event.candidates
            if event.whole:
                self.stage = Stage.SEGMENTING


@dataclass(frozen=True)
class Wish:
    """What a request asks for beside its words.

    image: a message to look at, or None for the camera. prompts: instead of reasoning; the words are the label then.
    stamp: nanoseconds; that very frame of the camera, 0 for the newest. not_before: nanoseconds on the node's clock;
    the frame's own stamp is at least this, and max_age does not count; 0 for none. in_3d: None for the node's setting.
    """

    image: Any = None
    prompts: Prompts = ()
    stamp: int = 0
    not_before: int = 0
    in_3d: bool | None = None


@dataclass(eq=False)
class Ticket:
    """One request. Its `result` is None until it has ended, and never changes after that.

    asked, deadline: seconds of the clock; a deadline of None begins to count when the request is taken.
    frame: what it is reasoned about, once that is known.
    """

    request_id: str
    instruction: str
    by: Asker
    asked: float
    timeout: float
    deadline: float | None
    wish: Wish = field(default_factory=Wish)
    frame: Any = None
    watch: Watch = field(default_factory=Watch)
    cancel: Cancel = field(default_factory=Cancel)
    result: Segmentation | None = None
    series: Series | None = None
    again: bool = False  # a later round of its series
    reason: str = ""  # why it was cancelled
    cancelled: float | None = None
    refused: bool = False  # nobody took it, so nothing was looked at
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def is_instruction(self) -> bool:
        return self.by not in (Asker.SERVICE, Asker.ACTION)

    @property
    def repeatable(self) -> bool:
        """Whether the same words can repeat it: its answer is still to come, and for everybody."""
        return self.is_instruction and not self.wish.prompts and self.result is None and not self.cancel.is_set()

    @property
    def patient(self) -> bool:
        """Whether it waits for a frame for ever: its series has said already that there is none."""
        return self.again and self.series is not None and self.series.last in (Status.NO_IMAGE, Status.STALE_IMAGE)


@dataclass(frozen=True)
class Asked:
    """request_id: of the answer. ticket: the new request, or None where an earlier one with the same words answers.

    refusal: why it was not taken; the ticket has ended then.
    """

    request_id: str
    ticket: Ticket | None
    refusal: SegzeroError | None = None
