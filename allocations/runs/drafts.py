"""Notebooks that people have brought and not submitted yet, for the form to ask about their parameters: for a day."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, or_, select

from allocations.clock import MS_PER_DAY, to_rfc3339
from allocations.db.schema import notebook_drafts
from allocations.errors import NotFoundError
from allocations.leases.views import View
from allocations.runs.files import INPUT
from allocations.runs.models import RunSource
from allocations.runs.notebook_parameters import NotebookParameters, parameters_of
from allocations.runs.submissions import require_file_name, require_notebook, require_source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.policy.models import Policy
    from allocations.runs.files import RunFiles

KEPT_MS = MS_PER_DAY
# Of one person at a time; each may be as large as a notebook may.
KEPT_MAX = 10
FORGOTTEN_AT_ONCE = 100


class DraftView(View):
    """A notebook that waits to be submitted; `page` is the path of the form that has it."""

    id: str
    name: str
    source: RunSource
    parameters: NotebookParameters
    kept_until: str
    page: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A notebook that waits to be submitted, as stored. `source` is JSON."""

    id: str
    person: str
    name: str
    source: str
    made_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftService:
    """Keeps people's notebooks between the choice of one and its submission."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    files: RunFiles

    def keep(self, person: str, name: str, notebook: Mapping[str, Any], source: RunSource | None = None) -> DraftView:
        """Keep a notebook for a day; InvalidInputError for what could not be submitted either."""
        content = require_notebook(notebook, self.policy.runs.notebook_max_bytes)
        draft = Draft(self.new_id("n"), person, require_file_name(name), require_source(source), self.clock.now_ms())
        # The file first, and last when it goes: a draft always has its notebook.
        self.files.write_input(draft.id, content)
        with self.database.write() as connection:
            connection.execute(insert(notebook_drafts), asdict(draft))
            forgotten = self._forget(connection, person)
        for one in forgotten:
            self.files.remove_input(one)
        return self._view(draft, notebook)

    def get(self, person: str, draft_id: str) -> tuple[DraftView, dict[str, Any]]:
        """Return a notebook of one's own, and what it is; NotFoundError for those of others and when a day is over."""
        with self.database.read() as connection:
            row = connection.execute(
                select(notebook_drafts).where(
                    notebook_drafts.c.id == draft_id,
                    notebook_drafts.c.person == person,
                    notebook_drafts.c.made_at_ms > self.clock.now_ms() - KEPT_MS,
                )
            ).one_or_none()
        if row is None:
            raise NotFoundError("The notebook is not kept any more.", "Choose it again.")
        notebook: dict[str, Any] = json.loads(self.files.read(draft_id, INPUT))
        return self._view(Draft(*row), notebook), notebook

    def _forget(self, connection: Connection, person: str) -> list[str]:
        """Forget what a day has passed over, and of a person all but the newest; return which."""
        newest = (
            select(notebook_drafts.c.id)
            .where(notebook_drafts.c.person == person)
            .order_by(notebook_drafts.c.made_at_ms.desc(), notebook_drafts.c.id.desc())
            .limit(KEPT_MAX)
        )
        kept = set(connection.execute(newest).scalars())
        too_many = (notebook_drafts.c.person == person) & notebook_drafts.c.id.not_in(kept)
        too_old = notebook_drafts.c.made_at_ms <= self.clock.now_ms() - KEPT_MS
        gone = list(
            connection.execute(
                select(notebook_drafts.c.id).where(or_(too_many, too_old)).limit(FORGOTTEN_AT_ONCE)
            ).scalars()
        )
        connection.execute(delete(notebook_drafts).where(notebook_drafts.c.id.in_(gone)))
        return gone

    def _view(self, draft: Draft, notebook: Mapping[str, Any]) -> DraftView:
        return DraftView(
            id=draft.id,
            name=draft.name,
            source=RunSource.model_validate_json(draft.source),
            parameters=parameters_of(notebook),
            kept_until=to_rfc3339(draft.made_at_ms + KEPT_MS),
            page=f"/services/allocations/runs/new?draft={draft.id}",
        )
