"""How sure an answer is: what the reasoner says when it is asked again, compared with what it said. NumPy only.

`SegmentingStep` makes the masks, `VerifyingStep` asks; here are the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from segzero_ros.core.contract import Instance, PackedMask, Segmentation, Status
from segzero_ros.core.geometry import packed_iou
from segzero_ros.core.text import one_line

WAYS = ("off", "vote")
SAMPLES = 8
MAX_SAMPLES = 64
MAX_NAMED = 5  # objects in a message


@dataclass(frozen=True)
class Verification:
    """Whether and how an answer is asked again, and what becomes of one that is not confirmed.

    way: off; vote: `samples` random answers to the same question.
    min_confidence: objects below it, and those of which none is known, are taken out of the answer; 0: none is.
    """

    way: str = "off"
    samples: int = SAMPLES
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise ValueError(f"verify must be one of {', '.join(WAYS)}; got {self.way!r}")
        if type(self.samples) is not int or not 1 <= self.samples <= MAX_SAMPLES:
            raise ValueError(f"there are 1 to {MAX_SAMPLES} samples, not {self.samples!r}")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence must be from 0 to 1, got {self.min_confidence}")
        if sentence := why_no_threshold(self.way, self.min_confidence):
            raise ValueError(sentence)


def why_no_threshold(way: str, min_confidence: float) -> str:
    """A sentence where a confidence is demanded that nobody finds out, else an empty text."""
    if way != "off" or not min_confidence:
        return ""
    return f"min_confidence {min_confidence:g} needs a confidence: verify must be vote, not off"


def best_iou(mask: PackedMask, others: Sequence[PackedMask]) -> float:
    """IoU with the nearest of the others, 0 where there is none."""
    return max((packed_iou(mask, other) for other in others), default=0.0)


def agreement(mask: PackedMask, samples: Sequence[Sequence[PackedMask]]) -> float | None:
    """Mean over the samples of the best IoU that one of their masks has with this object; None without a sample.

    samples: of each readable answer its masks, none where it says that nothing matches (an IoU of 0).
    """
    if not samples:
        return None
    return sum(best_iou(mask, masks) for masks in samples) / len(samples)


def drop_unsure(result: Segmentation, least: float) -> Segmentation:
    """The answer without the objects whose confidence is below `least` or not known, each named in the message.

    Those that stay are numbered anew, without gaps. Nothing left is NO_OBJECT. least: 0 keeps all. What else
    the message says stays.
    """
    unsure = [i for i in result.instances if least and (i.confidence is None or i.confidence < least)]
    if not unsure:
        return result
    said = [_name(i, least) for i in unsure[:MAX_NAMED]]
    if len(unsure) > MAX_NAMED:
        said.append(f"{len(unsure) - MAX_NAMED} more were below it or not known")
    sure = [i for i in result.instances if i not in unsure]
    if not sure:
        message = "; ".join([*said, *_complaints(result)])
        return replace(result, status=Status.NO_OBJECT, message=message, instances=())
    kept = tuple(replace(i, index=n) for n, i in enumerate(sure, 1))
    anew = f"{len(kept)} of {len(result.instances)} stay, numbered anew from 1"  # the message has the former numbers
    return replace(result, message="; ".join([result.message, *said, anew]), instances=kept)


def leave_unverified(result: Segmentation, status: Status, why: str, least: float) -> Segmentation:
    """An answer that could not be asked again. status, why: of that failure, which is the answer's where `least` is
    demanded; without it the answer stays."""
    if not least:
        return replace(result, message=f"{result.message}; the confidence is not known: {why}")
    said = f"the confidence is not known, and min_confidence is {least:g}: {why}"
    return replace(result, status=status, message="; ".join([said, *_complaints(result)]), instances=())


def _complaints(result: Segmentation) -> list[str]:
    """What the message says beside how many objects there are."""
    _, _, rest = result.message.partition("; ")
    return [rest] if rest else []


def _name(instance: Instance, least: float) -> str:
    what = f"object {instance.index} ({one_line(instance.label, 60)})"
    if instance.confidence is None:
        return f"{what} was left out: its confidence is not known, and min_confidence is {least:g}"
    below = math.floor(instance.confidence * 100 + 1e-6) / 100  # rounded up, it could be the least itself
    return f"{what} was found with confidence {below:.2f}, below min_confidence {least:g}"
