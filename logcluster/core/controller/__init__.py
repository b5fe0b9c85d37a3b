"""What the active controller decides: brokers, topics, leaders. Start reading at `controller.py`."""
