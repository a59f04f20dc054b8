"""The list of a person's batch runs: which are looked for, a page of them, and where its older ones begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

from fastapi import Query

from allocations.errors import InvalidInputError
from allocations.runs.models import ENDED_STATES, RunFilter, RunState

if TYPE_CHECKING:
    from allocations.runs.models import RunView
    from allocations.runs.service import RunService
    from allocations.web.session import Sent

# With a box for each, a form of them stays within the fields that a form may have.
RUNS_PAGE = 40
NAME_LENGTH_MAX = 130
UNENDED = "unended"
STATES = {
    UNENDED: "waiting or running",
    RunState.QUEUED: "waiting",
    RunState.RUNNING: "running",
    RunState.SUCCEEDED: "succeeded",
    RunState.FAILED: "failed",
    RunState.TIMED_OUT: "timed out",
    RunState.CANCELLED: "cancelled",
}
# An admitted run holds its credits and waits for its machine: to its person it waits still.
_STATES_OF = {
    UNENDED: frozenset(RunState) - ENDED_STATES,
    RunState.QUEUED: frozenset({RunState.QUEUED, RunState.ADMITTED}),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for, as the address says it; empty for everything."""

    state: str = ""
    allocation: str = ""
    name: str = ""
    before: str = ""

    @property
    def is_filtered(self) -> bool:
        """Whether anything but the place in the list is asked for."""
        return bool(self.state or self.allocation or self.name)

    def query(self, before: str = "") -> str:
        """Return the query of an address that asks for the same, for the newest or those before a run."""
        fields = {"state": self.state, "allocation": self.allocation, "name": self.name, "before": before}
        query = urlencode({name: value for name, value in fields.items() if value})
        return f"?{query}" if query else ""

    def to_filter(self) -> RunFilter:
        """Return what the service looks for; InvalidInputError for a state that there is not."""
        if self.state and self.state not in STATES:
            raise InvalidInputError(f"There is no state {self.state!r} of runs.", "Choose one of the list.")
        states = _STATES_OF.get(self.state) or (frozenset({RunState(self.state)}) if self.state else frozenset())
        return RunFilter(states, self.allocation, self.name.strip())


@dataclass(frozen=True, slots=True)
class RunPage:
    """A page of runs, and the run after which the next page begins; None on the last."""

    runs: list[RunView]
    older: str | None

    @property
    def unended(self) -> int:
        """How many of the runs wait or run."""
        return sum(1 for run in self.runs if run.state not in ENDED_STATES)


def wanted_of(
    state: Annotated[str, Query(max_length=20)] = "",
    allocation: Annotated[str, Query(max_length=100)] = "",
    name: Annotated[str, Query(max_length=NAME_LENGTH_MAX)] = "",
    before: Annotated[str, Query(max_length=100)] = "",
) -> Wanted:
    """Read what is looked for from the address. A NUL, which PostgreSQL refuses, is left out."""
    return Wanted(*(text.replace("\0", "") for text in (state, allocation, name, before)))


def wanted_by(sent: Sent) -> Wanted:
    """Read from a form of the list which list it was."""
    return Wanted(sent.text("state"), sent.text("allocation"), sent.text("name"), sent.text("before"))


def page_of(runs: RunService, person: str, wanted: Wanted) -> RunPage:
    """Return a page of a person's runs; NotFoundError when it is to begin after a run that is not theirs."""
    found = runs.list_of(person, RUNS_PAGE + 1, wanted.to_filter(), wanted.before or None)
    return RunPage(found[:RUNS_PAGE], found[RUNS_PAGE - 1].id if len(found) > RUNS_PAGE else None)
