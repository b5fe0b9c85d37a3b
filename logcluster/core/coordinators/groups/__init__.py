"""Consumer groups: who reads which partitions, and how far they are. Rules: docs/protocol/groups.md, KIP-848."""
