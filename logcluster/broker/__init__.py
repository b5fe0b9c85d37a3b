"""Executes decisions on disk and network: hosted partitions, replication streams, the controller's driver.

Start at replica_manager.py.
"""
