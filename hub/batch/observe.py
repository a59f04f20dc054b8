"""What operators see of the executor: metrics, and structured log lines."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hub.batch.model import now_utc, to_text

if TYPE_CHECKING:
    from hub.batch.model import Run

FIELDS = "meridian"


class Metrics:
    """The executor's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.runs = Counter("meridian_batch_runs", "Runs finished, by outcome.", ["outcome"], registry=self.registry)
        self.ends = Counter("meridian_batch_ends", "Ends of attempts, by code.", ["code"], registry=self.registry)
        self.running = Gauge("meridian_batch_running", "Runs this executor has in hand.", registry=self.registry)
        self.slots = Gauge("meridian_batch_slots", "Runs it takes at once.", registry=self.registry)
        self.loop_seconds = Histogram(
            "meridian_batch_loop_seconds", "Duration of one loop, in seconds.", registry=self.registry
        )
        self.service_errors = Counter(
            "meridian_batch_service_errors",
            "Requests that the allocations service refused or did not answer, by code.",
            ["code"],
            registry=self.registry,
        )


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, message, and the fields given with the record."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": to_text(now_utc()),
            "level": record.levelname.lower(),
            "process": "batch",
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def run_fields(run: Run, **more: object) -> dict[str, dict[str, object]]:
    """`extra` for a log line about the run."""
    return {
        FIELDS: {
            "run": run.id,
            "attempt": run.attempt,
            "person": run.person,
            "allocation": run.allocation,
            "lease": run.lease,
            **more,
        }
    }


def log_to_stdout() -> None:
    """Send the process's log lines to standard output as JSON, without the chatter of libraries."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library in ("httpx", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)
