"""Assignors: pure functions from subscriptions, topics and what members have to a target; start at `registry`."""
