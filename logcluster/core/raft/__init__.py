"""The metadata quorum's consensus, pure (Ongaro, "In Search of an Understandable Consensus Algorithm", and his
dissertation): no clock, no I/O, no randomness of its own.

Start reading at `node` (the door and the contract with the driver), then `roles` (who may become what), `state`
(the one owner), `founding` (before the first election), `election`, `following`, `leading`, `membership`. `inputs`,
`effects` and `messages` are its vocabulary. May import `model` only.
"""
