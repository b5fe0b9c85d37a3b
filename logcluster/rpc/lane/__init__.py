"""The lane: the services' messages in frames over asyncio TCP. See docs/protocol/lane.md.

Start at frames.py, then connection.py.
"""
