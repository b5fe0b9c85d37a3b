"""Coordinators: replicated state machines on ordinary partitions, written as pure decisions.

`machine` says what every coordinator is to the runtime; each has a package of its own beside it.
"""
