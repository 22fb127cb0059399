"""In words, how boxes lie that should lie elsewhere: swapped, mirrored, scaled, shifted; and what makes them so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.contract import Box
from segzero_ros.core.geometry import boxes_iou_matrix
from segzero_ros.core.profile import Profile

Boxes = NDArray[np.float64]  # (N, 4)

EXPLAINED = 0.6  # mean IoU, once the fault is undone
GAIN = 0.15  # of it at least, against the boxes as they are
NEAR = 0.04  # of a factor, so that a whole number of cells or a known unit is recognised
FEWEST = 3  # boxes, of which two could be anything
_UNITS = {"thousandths": 1000.0, "percent": 100.0, "unit": 1.0}


@dataclass(frozen=True)
class BoxFault:
    """what: how the boxes lie, in words. advice: what to change."""

    what: str
    advice: str


def find_box_fault(true: Sequence[Box], found: Sequence[Box], profile: Profile) -> BoxFault | None:
    """The simplest change that explains the boxes found, by pairs in the profile's coordinates; None where none does.

    found: not clipped to the picture, or a scale could not be seen.
    """
    wanted, given = np.array(true, np.float64).reshape(-1, 4), np.array(found, np.float64).reshape(-1, 4)
    if len(wanted) < FEWEST:
        return None
    enough = max(EXPLAINED, mean_iou(wanted, given) + GAIN)
    for fit in (_as_it_is, _undo_scale, _undo_shift, _undo_both):
        for words, advice, turn in _turns(profile.extent):
            undone, more = fit(wanted, turn(given), profile)
            if mean_iou(wanted, undone) >= enough and (words or more.what):
                both = [part for part in (BoxFault(words, advice), more) if part.what]
                return BoxFault(", and ".join(p.what for p in both), "; ".join(p.advice for p in both))
    return None


def mean_iou(a: Boxes, b: Boxes) -> float:
    """Of pairs."""
    return float(boxes_iou_matrix(a, b).diagonal().mean())


def _turns(extent: float) -> list[tuple[str, str, Callable[[Boxes], Boxes]]]:
    mirrored = np.array([extent, 0, extent, 0])
    turned = np.array([0, extent, 0, extent])
    sign = np.array([-1, 1, -1, 1])
    return [
        ("", "", lambda b: b),
        ("with x and y swapped", "`order` in the profile is the checkpoint's", lambda b: b[:, [1, 0, 3, 2]]),
        ("mirrored left to right", "the server mirrors pictures", lambda b: (mirrored + sign * b)[:, [2, 1, 0, 3]]),
        ("upside down", "the server turns pictures", lambda b: (turned - sign * b)[:, [0, 3, 2, 1]]),
    ]


def _as_it_is(true: Boxes, found: Boxes, profile: Profile) -> tuple[Boxes, BoxFault]:
    return found, BoxFault("", "")


def _undo_scale(true: Boxes, found: Boxes, profile: Profile) -> tuple[Boxes, BoxFault]:
    scale = np.array([np.median(found[:, i::2] / true[:, i::2].clip(1e-9)) for i in (0, 1)])
    if not (scale > 0).all():
        return found, BoxFault("", "")
    return found / np.tile(scale, 2), _name_scale(scale, profile)


def _undo_shift(true: Boxes, found: Boxes, profile: Profile) -> tuple[Boxes, BoxFault]:
    shift = np.array([np.median(found[:, i::2] - true[:, i::2]) for i in (0, 1)])
    what = f"shifted by {shift[0]:+.4g} across and {shift[1]:+.4g} down"
    return found - np.tile(shift, 2), BoxFault(what, "the server pads or crops pictures: the square must go as it is")


def _undo_both(true: Boxes, found: Boxes, profile: Profile) -> tuple[Boxes, BoxFault]:
    lines = [np.polyfit(true[:, i::2].ravel(), found[:, i::2].ravel(), 1) for i in (0, 1)]
    scale, shift = np.array([line[0] for line in lines]), np.array([line[1] for line in lines])
    if not (scale > 0).all():
        return found, BoxFault("", "")
    what = f"scaled by {_factors(scale)} and shifted by {shift[0]:+.4g} across and {shift[1]:+.4g} down"
    advice = "the server resizes pictures and pads or crops them: the square must go as it is"
    return (found - np.tile(shift, 2)) / np.tile(scale, 2), BoxFault(what, advice)


def _name_scale(scale: NDArray[np.float64], profile: Profile) -> BoxFault:
    what = f"scaled by {_factors(scale)}"
    reach = float(scale.mean()) * profile.extent  # what the picture's far edge became
    even = bool(abs(scale[0] - scale[1]) <= NEAR * scale.mean())
    units = {**_UNITS, "pixels": float(profile.square)}
    for name, size in units.items():
        if even and name != profile.coordinates and abs(reach / size - 1) < NEAR:
            advice = f"the checkpoint writes {name}: take its own profile, or set coordinates: {name}"
            return BoxFault(f"{what}, as {name} would be", advice)
    if profile.coordinates == "pixels":
        what += f", as in a picture of {scale[0] * profile.square:.0f} x {scale[1] * profile.square:.0f} pixels"
    pixels = profile.square**2
    return BoxFault(
        what,
        "the server resizes pictures: its min_pixels must be at most and its max_pixels at least"
        f" {pixels} (vLLM: --mm-processor-kwargs)",
    )


def _factors(scale: NDArray[np.float64]) -> str:
    if abs(scale[0] - scale[1]) <= NEAR * scale.mean():
        return f"{scale.mean():.2f}"
    return f"{scale[0]:.2f} across and {scale[1]:.2f} down"
