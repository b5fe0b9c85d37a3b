"""The checker of client histories: one implementation for the simulator and the chaos suite."""
