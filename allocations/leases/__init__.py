"""Leases: what is held before a server or a run starts, renewed while it runs, settled when it has stopped."""
