"""Inbound calls: one servicer per service of proto/, and the HTTP port. Imports broker and below.

Start at data_service.py.
"""
