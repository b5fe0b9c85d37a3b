"""Vocabulary and limits: ids, leader epochs, the one error tree, invariants. Standard library only."""
