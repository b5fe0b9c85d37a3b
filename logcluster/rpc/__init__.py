"""Carriers for the generated stubs and servicers, both directions, and what surrounds every handler.

Start at interceptors.py.
"""
