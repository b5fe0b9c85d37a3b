"""Simulated disk and network for unchanged nodes.

disk.py forgets what was not synced, loopback.py carries the frames of the lane in memory.
"""
