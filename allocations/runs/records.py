"""Shows the records of runs, and submits runs again as they were."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allocations.errors import InvalidInputError, NotFoundError
from allocations.runs.files import INPUT, PROVENANCE
from allocations.runs.provenance import RECORD_BYTES_MAX, RunRecord, compare, record_of
from allocations.runs.service import Submission

if TYPE_CHECKING:
    from allocations.db.database import Database
    from allocations.db.idempotency import IdempotencyKey
    from allocations.runs.files import RunFiles
    from allocations.runs.models import RunView
    from allocations.runs.service import RunService
    from allocations.runs.store import RunStore


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordService:
    """The records of people's own runs, and replays of these."""

    database: Database
    store: RunStore
    files: RunFiles
    runs: RunService

    def of(self, person: str, run_id: str) -> RunRecord:
        """Return the record of a run of one's own; of a replay that has ended, with what differs from its original."""
        record = self._record(person, run_id)
        if record.run.replay_of is None or record.run.ended_at is None:
            return record
        try:
            original = self._record(person, record.run.replay_of)
        except NotFoundError:  # an original that has been removed is compared with nothing
            return record
        return record.model_copy(update={"comparison": compare(original, record)})

    def replay(self, person: str, run_id: str, idempotency: IdempotencyKey) -> RunView:
        """Submit a run of one's own again: the same notebook, parameters, image, size, secrets and maximum time.

        Its output goes nowhere else, so that nothing is written over. InvalidInputError when the notebook that was
        submitted is not there any more as it was.
        """
        record = self._record(person, run_id)
        run = record.run
        content = self.files.read(run.id, INPUT)
        if record.provenance and hashlib.sha256(content).hexdigest() != record.provenance.notebook_sha256:
            raise InvalidInputError(
                "The run's notebook has been changed since it was submitted.", "Submit the notebook that you have."
            )
        submission = Submission(
            person=person,
            allocation=run.allocation,
            size=run.size,
            name=run.name,
            notebook=json.loads(content),
            parameters=run.parameters,
            image=run.image,
            max_seconds=run.max_seconds,
            source=run.source,
            environment=run.environment,
        )
        return self.runs.submit(replace(submission, replay_of=run.id), idempotency)

    def _record(self, person: str, run_id: str) -> RunRecord:
        run = self.runs.get(person, run_id)
        with self.database.read() as connection:
            stored = self.store.get(connection, run_id)
        assert stored is not None  # it was there a moment ago, and runs stay
        try:
            said = self.files.read_start(run_id, PROVENANCE, RECORD_BYTES_MAX)
        except NotFoundError:
            said = b""
        return record_of(run, stored.provenance, said)
