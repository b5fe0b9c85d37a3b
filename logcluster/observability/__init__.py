"""What a node says about itself in its logs, and what the system says of its process; metrics are in `metrics`."""
