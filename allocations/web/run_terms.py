"""What the forms of runs, sweeps and schedules have in common: limits, secrets, output; but for the last, the chain."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from allocations.errors import InvalidInputError
from allocations.runs.models import ACTIVE_STATES, ChainedRun, Condition, RunFilter, RunState
from allocations.web.formats import SECONDS_PER_MINUTE
from allocations.web.forms import to_seconds, to_whole_between
from allocations.web.parameter_fields import FieldsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from allocations.factory import Services
    from allocations.runs.models import RunSource
    from allocations.runs.schedule_models import ScheduleTerms
    from allocations.runs.service import Submission
    from allocations.web.session import Sent

RUN_FIELDS = ("choice", "image", "custom_image", "minutes", "retries", "output", "key")
FIELDS = (*RUN_FIELDS, "after_ids", "even_if_failed")
SEPARATOR = "::"  # between the allocation and the size of a choice
# How many unfinished runs, and sweeps, are offered to be waited for; others by their numbers.
OFFERED_MAX = 10


@dataclass(frozen=True, slots=True)
class Ticked:
    """Which boxes are ticked: names of secrets, ids of what is awaited."""

    environment: Sequence[str] = ()
    after: Sequence[str] = ()

    @classmethod
    def of(cls, sent: Sent) -> Ticked:
        """Read the boxes of a form."""
        return cls(sent.texts("environment"), sent.texts("after"))


NOTHING_TICKED = Ticked()


class Reading:
    """Reads fields of a form one after the other, and gathers what is wrong in each."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}

    def __call__(self, field: str, read: Callable[[], Any]) -> Any:
        """Return what a field holds, None when that cannot be taken."""
        try:
            return read()
        except FieldsError as error:
            self.faults.update(error.faults)
        except InvalidInputError as error:
            self.faults[field] = f"{error.detail} {error.remedy}"
        return None

    def require(self) -> None:
        """Raise FieldsError with whatever was wrong."""
        if self.faults:
            raise FieldsError(self.faults)


def first_values(services: Services, key: str) -> dict[str, str]:
    """Return what a new form begins with."""
    minutes = services.policy.runs.default_max_seconds // SECONDS_PER_MINUTE
    return {"minutes": str(minutes), "retries": "0", "key": key}


def read_choice(values: Mapping[str, str]) -> tuple[str, str]:
    """Return the allocation and the size that are chosen together."""
    allocation, separator, size = values["choice"].partition(SEPARATOR)
    if not separator:
        raise InvalidInputError("No size is chosen.", "Choose one on one of your allocations.")
    return allocation, size


def read_terms(services: Services, reading: Reading, values: Mapping[str, str], ticked: Ticked) -> dict[str, Any]:
    """Return the common part of a submission, by its names; `reading` has what is wrong with it."""
    return read_run_terms(services, reading, values, ticked) | {
        "after": [*ticked.after, *values["after_ids"].replace(",", " ").split()],
        "waits_for": Condition.ENDED if values["even_if_failed"] else Condition.SUCCEEDED,
    }


def read_run_terms(services: Services, reading: Reading, values: Mapping[str, str], ticked: Ticked) -> dict[str, Any]:
    """Return what a schedule says of its runs, too."""
    allocation, size = reading("choice", lambda: read_choice(values)) or ("", "")
    retries_max = services.policy.runs.retries_max
    return {
        "allocation": allocation,
        "size": size,
        "image": values["custom_image"].strip() or values["image"] or None,
        "max_seconds": reading("minutes", lambda: to_seconds(values["minutes"], "Maximum minutes")),
        "retries": reading("retries", lambda: to_whole_between(values["retries"], "Retries", 0, retries_max)) or 0,
        "environment": ticked.environment,
        "output": values["output"],
    }


def shown_terms(services: Services, person: str, values: Mapping[str, str], ticked: Ticked) -> dict[str, Any]:
    """Return what the templates of the common fields are made of."""
    return shown_run_terms(services, person, values, ticked) | {"unfinished": _unfinished(services, person)}


def shown_run_terms(services: Services, person: str, values: Mapping[str, str], ticked: Ticked) -> dict[str, Any]:
    """Return what the form of a schedule shows of them."""
    secrets = services.secrets.list_of(person)
    options = services.offers.start_options(person, is_server=False)
    default = f"{options.default.allocation}{SEPARATOR}{options.default.size}" if options.default else ""
    return {
        "options": options,
        "startable": options.agreement.accepted and any(offer.usable for offer in options.allocations),
        "values": dict.fromkeys(FIELDS, "") | {"choice": default} | dict(values),
        "ticked": ticked,
        "secrets": secrets,
        # What was asked for, and has been removed since, is not left out unseen.
        "gone": sorted(set(ticked.environment) - {one.name for one in secrets}),
        "longest_minutes": services.policy.runs.longest_seconds // SECONDS_PER_MINUTE,
        "retries_max": services.policy.runs.retries_max,
        "separator": SEPARATOR,
    }


def to_body(submission: Submission | ScheduleTerms) -> dict[str, Any]:
    """Return what tells one submission from another, under a key."""
    body = {field.name: getattr(submission, field.name) for field in fields(submission)}
    source: RunSource | None = submission.source
    return body | {"source": source.model_dump() if source else None}


def _unfinished(services: Services, person: str) -> list[ChainedRun]:
    """Return the newest of a person's runs and sweeps that have not ended."""
    going = RunFilter(states=ACTIVE_STATES | {RunState.QUEUED})
    runs = services.runs.list_of(person, OFFERED_MAX, going)
    sweeps = [one for one in services.sweeps.list_of(person, OFFERED_MAX) if one.ended < one.rows]
    return [
        *(ChainedRun(sweep=one.id, name=one.name, state=RunState(one.state.value)) for one in sweeps),
        *(ChainedRun(run=one.id, name=one.name, state=one.state) for one in runs),
    ]
