"""Faults: what may go wrong in a simulated world, drawn by seed, kept within the promises, applied and undone.

`plan` is the explicit list of timed faults, `swarm` draws one, `atlas` knows what may still be damaged, `injector`
carries a plan out. Everything here reads the world and never the other way round.
"""
