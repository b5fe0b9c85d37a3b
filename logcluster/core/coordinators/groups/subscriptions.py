"""Which topics the members of a group read now: by name, by regular expression, or both.

Names that no topic has are no error: their topics may be created later, and the group hears of that through
`on_metadata_changed`. Topics are told apart by id, so one that is created again under its name is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from logcluster.core.coordinators.groups.records import MemberValue, TopicSize
from logcluster.core.coordinators.groups.requests import Subscription, Topics
from logcluster.model.errors import InvalidRegularExpression, InvalidRequest
from logcluster.model.ids import TopicId
from logcluster.model.limits import TOPIC_REGEX_LENGTH_MAX

TOPICS_NAMED_MAX = 5
"""In a reason; of the others it says how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriptions:
    """What a whole group reads.

    Args:
        by_member: topics of each member.
        topics: all of them with their sizes, in the order of their names.
    """

    by_member: Mapping[str, frozenset[TopicId]]
    topics: Mapping[TopicId, TopicSize]


def checked_subscription(subscription: Subscription, topics: Topics) -> Subscription:
    """Put a subscription into its one form: names sorted, each once, no empty expression.

    Raises:
        InvalidRequest: it names nothing, or has an empty name.
        InvalidRegularExpression: the expression is too long or cannot be used.
    """
    names = tuple(sorted(set(subscription.topics)))
    regex = subscription.topic_regex or None
    if not names and regex is None:
        raise InvalidRequest("the subscription is empty", hint="name topics, or give a regular expression")
    if "" in names:
        raise InvalidRequest("the subscription has an empty topic name")
    if regex is not None:
        if len(regex) > TOPIC_REGEX_LENGTH_MAX:
            raise InvalidRegularExpression(
                f"the expression has {len(regex)} characters, at most {TOPIC_REGEX_LENGTH_MAX} are allowed"
            )
        topics.matching(regex)
    return Subscription(topics=names, topic_regex=regex)


def read_subscriptions(members: Mapping[str, MemberValue], topics: Topics) -> Subscriptions:
    """Look up what every member reads; equal subscriptions are looked up once."""
    known: dict[tuple[tuple[str, ...], str | None], frozenset[TopicId]] = {}
    sizes: dict[str, TopicSize] = {}
    by_member: dict[str, frozenset[TopicId]] = {}
    for member_id in sorted(members):
        member = members[member_id]
        subscription = (member.topics, member.topic_regex)
        if subscription not in known:
            found = _look_up(member, topics)
            sizes.update((size.topic, size) for size in found)
            known[subscription] = frozenset(size.topic_id for size in found)
        by_member[member_id] = known[subscription]
    return Subscriptions(by_member=by_member, topics={sizes[name].topic_id: sizes[name] for name in sorted(sizes)})


def _look_up(member: MemberValue, topics: Topics) -> list[TopicSize]:
    names = set(member.topics)
    if member.topic_regex is not None:
        names.update(topics.matching(member.topic_regex))
    sizes: list[TopicSize] = []
    for name in sorted(names):
        size = topics.size(name)
        if size is not None:
            topic_id, partitions = size
            sizes.append(TopicSize(topic=name, topic_id=topic_id, partitions=partitions))
    return sizes


def difference(before: Mapping[TopicId, TopicSize], after: Mapping[TopicId, TopicSize]) -> str:
    """Say for people how the topics of a group changed."""
    changes = [f"{size.topic} is new" for topic_id, size in after.items() if topic_id not in before]
    changes += [f"{size.topic} is gone" for topic_id, size in before.items() if topic_id not in after]
    changes += [
        f"{size.topic} has {size.partitions} partitions, had {before[topic_id].partitions}"
        for topic_id, size in after.items()
        if topic_id in before and before[topic_id].partitions != size.partitions
    ]
    changes.sort()
    more = len(changes) - TOPICS_NAMED_MAX
    return ", ".join(changes[:TOPICS_NAMED_MAX]) + (f", and {more} more changes" if more > 0 else "")
