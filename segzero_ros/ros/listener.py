"""One topic that is pulled: its subscription, which follows the publishers' reliability, and in words what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.qos import QoSPolicyKind, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from segzero_ros.core.text import clean
from segzero_ros.ros.qos import BEST_EFFORT, RELIABLE, latched_by, name_of, profile, reliability_for

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

PACKED = "sensor_msgs/msg/CompressedImage"
IMAGES = ("sensor_msgs/msg/Image", PACKED)
CHOICES = {"reliable": RELIABLE, "best_effort": BEST_EFFORT}


class Pulled(CallbackGroup):
    """Keeps the executor from taking messages."""

    def can_execute(self, entity: Any) -> bool:
        return not isinstance(entity, Subscription)

    def beginning_execution(self, entity: Any) -> bool:
        return self.can_execute(entity)

    def ending_execution(self, entity: Any) -> None:
        return


@dataclass(frozen=True)
class Names:
    """What hints speak of: the parameters of a topic and its transport, and the transport of CompressedImage."""

    topic: str
    transport: str
    packed: str
    among: str = ""  # stands in the topics of other such pictures


IMAGE = Names("image_topic", "image_transport", "compressed")
DEPTH = Names("depth_topic", "depth_transport", "compressedDepth", "depth")


class Listener:
    """Not thread-safe: `Inputs` has the lock. put(message, received): what to do with a message; received as in `take`.

    topic: resolved. names: what hints speak of. Raises ValueError for an override that is none.
    """

    def __init__(
        self, node: Any, kind: type, topic: str, depth: int, put: Callable[[Any, int], None], names: Names = IMAGE
    ) -> None:
        self._node = node
        self.kind = kind
        self.topic = topic
        self.depth = depth
        self._put = put
        self._names = names
        self._group = Pulled()
        self.broken = ""  # why the last message could not be read
        self._override = self._overridden()
        self.reliability, self._latched = self._override or BEST_EFFORT, False
        self._subscription = self._subscribed(*self._wanted())

    @property
    def doubled(self) -> bool:
        """Whether the topic of a transport was given where the raw topic was meant."""
        return self.topic.endswith(f"/{self._names.packed}/{self._names.packed}")

    @property
    def type_name(self) -> str:
        return f"sensor_msgs/msg/{self.kind.__name__}"

    def take(self) -> int | None:
        """One message, handed to `put`: when it was received (nanoseconds since 1970, 0 when unknown).

        None when there is none, or none that can be read; that is said.
        """
        try:
            with self._subscription.handle:
                taken = self._subscription.handle.take_message(self.kind, False)
            if taken is None:
                return None
            received = int(taken[1].get("received_timestamp", 0))
            self._put(taken[0], received)
        except Exception as error:
            self.broken = clean(f"a message could not be read: {type(error).__name__}: {error}")
            self._node.get_logger().warning(f"{self.topic}: {self.broken}", throttle_duration_sec=10.0)
            return None
        self.broken = ""
        return received

    def drain(self) -> None:
        """All that waits."""
        for _ in range(self.depth):
            if self.take() is None:
                break

    def follow(self) -> bool:
        """Subscribes anew where the publishers offer something else than before; True then."""
        wanted = self._wanted()
        if wanted == (self.reliability, self._latched):
            return False
        old, new = self._subscription, self._subscribed(*wanted)
        self.drain()  # what waits, and what came meanwhile, would go with the old subscription
        self._subscription = new
        self._node.destroy_subscription(old)
        return True

    def close(self) -> None:
        self._node.destroy_subscription(self._subscription)

    def describe(self) -> str:
        """In words: the topic, who publishes it, and what does not fit."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        ends = ", ".join(_in_words(p) for p in publishers[:4]) or "none"
        mine = f"topic {self.topic} ({self.type_name}, {name_of(self.reliability)})"
        return "; ".join([mine, f"publishers: {ends}", *self._hints(publishers)])

    def _hints(self, publishers: list[Any]) -> list[str]:
        kinds = {p.topic_type for p in publishers}
        hints = [self.broken] if self.broken else []
        if publishers and self.type_name not in kinds:
            compressed = PACKED in kinds
            hints.append(f"nobody there publishes {self.type_name}")
            if compressed or "sensor_msgs/msg/Image" in kinds:
                hints.append(f"set {self._names.transport}: {self._transport(compressed)}")
        if self.doubled:
            hints.append(f"{self._names.topic} is the name of the raw topic, /{self._names.packed} is added to it")
        if self._override and any(p.qos_profile.reliability != self.reliability for p in publishers):
            hints.append(f"qos_overrides asks for {name_of(self.reliability)}, which not all offer")
        return hints if publishers else [*hints, *self._elsewhere()]

    def _elsewhere(self) -> list[str]:
        """Where images are, when they are not here."""
        own = self._node.get_fully_qualified_name() + "/"
        hints = []
        for name in IMAGES:
            topics = [t for t, types in self._node.get_topic_names_and_types() if name in types]
            topics = [t for t in topics if self._names.among in t and not t.startswith(own)]
            topics = sorted(t for t in topics if self._node.count_publishers(t))[:4]
            transport = self._transport(name == PACKED)
            if topics and name == self.type_name:
                hints.append(f"there are images on {', '.join(topics)}")
            elif topics:
                there = f"there are {transport} images on {', '.join(topics)}"
                hints.append(f"{there}: {self._names.transport}: {transport}")
        return hints

    def _transport(self, packed: bool) -> str:
        return self._names.packed if packed else "raw"

    def _wanted(self) -> tuple[ReliabilityPolicy, bool]:
        """Reliability, and whether to ask for what was published before."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        publishers = [p for p in publishers if p.topic_type == self.type_name]
        reliability = self._override or reliability_for(publishers, self.reliability)
        return reliability, latched_by(publishers, self._latched)

    def _overridden(self) -> ReliabilityPolicy | None:
        """Reads qos_overrides: rclpy's own would fix the reliability of the first subscription for all later ones."""
        name = f"qos_overrides.{self.topic}.subscription.reliability"
        if not self._node.has_parameter(name):
            self._node.declare_parameter(name, "")
        value = str(self._node.get_parameter(name).value or "")
        if value and value not in CHOICES:
            raise ValueError(f"{name} is {value!r}; it is reliable or best_effort")
        return CHOICES.get(value)

    def _subscribed(self, reliability: ReliabilityPolicy, latched: bool) -> Subscription:
        quality = profile(self.depth, reliability, latched)
        subscription = self._node.create_subscription(
            self.kind,
            self.topic,
            self._put,
            quality,
            callback_group=self._group,
            # None: beside messages that nobody takes, an event in the wait set makes rmw_fastrtps wake for ever.
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            qos_overriding_options=QoSOverridingOptions([QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH]),
        )
        self.reliability, self._latched = reliability, latched
        self.depth = max(1, quality.depth)  # an override may have changed it
        return subscription


def _in_words(publisher: Any) -> str:
    name = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
    name = "a node" if "_UNKNOWN_" in name else name  # its name comes a moment after its publisher
    return f"{name} ({publisher.topic_type}, {name_of(publisher.qos_profile.reliability)})"
