"""Batch runs: queued notebooks executed by papermill, and the client that people submit them with."""
