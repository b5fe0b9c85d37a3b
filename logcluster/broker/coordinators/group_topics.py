"""What the group coordinator knows of topics: one metadata image, and regular expressions matched against its names.

RE2 matches in time linear in the name, so that no member's expression can hold up the broker; what it cannot do
(look-around, back references) is refused when the member says it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import re2

from logcluster.core.metadata.image import MetadataImage
from logcluster.model.errors import InvalidRegularExpression
from logcluster.model.ids import TopicId
from logcluster.model.internal_topics import is_internal

_MEMORY_BYTES_MAX: Final = 1 << 20
"""Of one compiled expression."""
_COMPILED_MAX: Final = 1_000
_OPTIONS: Final = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = _MEMORY_BYTES_MAX


class GroupTopics:
    """Implements `requests.Topics` on one image."""

    def __init__(self, image: MetadataImage) -> None:
        self.image = image
        self._matching: dict[str, tuple[str, ...]] = {}

    def size(self, name: str) -> tuple[TopicId, int] | None:
        """Topic id and number of partitions; None: there is no such topic."""
        topic = self.image.topic_by_name(name)
        return None if topic is None else (topic.topic_id, len(topic.partitions))

    def name(self, topic_id: TopicId) -> str | None:
        """The topic's name; None: there is no such topic (any more)."""
        topic = self.image.topics.get(topic_id)
        return None if topic is None else topic.name

    def matching(self, regex: str) -> Sequence[str]:
        """Names that the expression matches whole, sorted; internal topics never match.

        Raises:
            InvalidRegularExpression: RE2 does not take it; says why.
        """
        found = self._matching.get(regex)
        if found is None:
            expression = _compiled(regex)
            found = tuple(
                sorted(name for name in self.image.topic_ids if not is_internal(name) and expression.fullmatch(name))
            )
            self._matching[regex] = found
        return found

    def partition_racks(self, topic_id: TopicId, partition: int) -> frozenset[str]:
        """Racks in which the partition has a replica; empty when unknown."""
        registration = self.image.partition(topic_id, partition)
        if registration is None:
            return frozenset()
        brokers = (self.image.brokers.get(broker_id) for broker_id in registration.replicas)
        return frozenset(broker.rack for broker in brokers if broker is not None and broker.rack)


class CurrentTopics:
    """Gives the view of the newest image; made once per image."""

    def __init__(self, image: Callable[[], MetadataImage]) -> None:
        self._image = image
        self._topics: GroupTopics | None = None

    def __call__(self) -> GroupTopics:
        image = self._image()
        if self._topics is None or self._topics.image is not image:
            self._topics = GroupTopics(image)
        return self._topics


@lru_cache(maxsize=_COMPILED_MAX)
def _compiled(regex: str) -> Any:
    try:
        return re2.compile(regex, _OPTIONS)  # type: ignore[no-untyped-call]
    except (re2.error, UnicodeError) as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(error)
        raise InvalidRegularExpression(f"{regex!r} cannot be used: {text}") from error
