"""Every decision, pure: consensus, controller, metadata, replication. No time, no I/O; inputs in, effects out."""
