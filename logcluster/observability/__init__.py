"""What a node says about itself: structured logs and metrics. The only package that touches their libraries."""
