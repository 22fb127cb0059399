"""Quality of service: what the node offers and asks for, and how a camera's choice is followed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


def profile(depth: int = 1, reliability: ReliabilityPolicy = RELIABLE, latched: bool = False) -> QoSProfile:
    """A new object each time: rclpy's overrides change the one that they are given."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def reliability_for(publishers: Iterable[Any], now: ReliabilityPolicy) -> ReliabilityPolicy:
    """Reliable if all publishers are; else best effort, which hears both kinds but loses large frames.

    publishers: what `get_publishers_info_by_topic` returns; without any it stays what it is `now`.
    """
    offered = [p.qos_profile.reliability for p in publishers]
    if not offered:
        return now
    return RELIABLE if all(o == RELIABLE for o in offered) else BEST_EFFORT


def latched_by(publishers: Iterable[Any], now: bool) -> bool:
    """Whether all publishers keep their last message for late subscribers (transient local): else none may be asked."""
    offered = [p.qos_profile.durability for p in publishers]
    return all(o == DurabilityPolicy.TRANSIENT_LOCAL for o in offered) if offered else now


def name_of(reliability: ReliabilityPolicy) -> str:
    return str(reliability.name).lower().replace("_", " ")


def has_arrived(publisher: Any) -> bool:
    """Whether every reliable reader has all that was published; also where the middleware cannot tell."""
    try:
        return bool(publisher.wait_for_all_acked(Duration()))
    except Exception:
        return True
