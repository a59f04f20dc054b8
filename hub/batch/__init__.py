"""Batch runs: queued notebooks executed by papermill, and the client that people submit them with."""

from hub.batch.record import record

__all__ = ["record"]
