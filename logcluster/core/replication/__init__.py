"""Replication of one partition as pure decisions: what is committed, who is in sync, what to cut, what is a retry.

Pure; imports `core.metadata` and `model` only. Start at `leader`, then `follower`, then `producer_state`.
"""
