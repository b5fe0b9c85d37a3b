"""The event loop tamed: clock, randomness, task scopes, blocking work. The only package that touches them."""
