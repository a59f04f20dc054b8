"""What is asked for, awarded, or set in place of it: the bodies, bounded to what any platform could have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from allocations.api.v1.common import Body
from allocations.lifecycle.asked import CREDITS_MAX, HOURS_MAX, TERM_DAYS_MAX
from allocations.lifecycle.models import Award, OverrideLimits

RESOURCE_MAX = 10_000
SECONDS_MAX = 366 * 86_400
Some = Annotated[int, Field(ge=1, le=RESOURCE_MAX)]
SomeOrNone = Annotated[int, Field(ge=0, le=RESOURCE_MAX)]
Seconds = Annotated[int, Field(ge=1, le=SECONDS_MAX)]
Credits = Annotated[int, Field(ge=1, le=CREDITS_MAX, description="Whole credits")]
Hours = Annotated[int, Field(ge=0, le=HOURS_MAX)]


class ShapeBody(Body):
    """The largest of a server or a run: a size fits when each of its resources fits."""

    cores: Some
    memory_gib: Some
    gpus: SomeOrNone = 0


class AtOnceBody(Body):
    """What may run at the same time: servers for each person, cores and GPUs over the whole allocation."""

    servers_per_person: Some
    cores: Some
    gpus: SomeOrNone


Largest = Annotated[list[ShapeBody], Field(min_length=1, max_length=10)]


class AskedBody(Body):
    """What is asked for beside credits; what is left out is as the tier says, or stays as it is."""

    gpu_hours: Hours | None = None
    core_hours: Hours | None = None
    largest: Largest | None = None
    at_once: AtOnceBody | None = None
    term_days: Annotated[int | None, Field(ge=1, le=TERM_DAYS_MAX)] = None

    @property
    def asked(self) -> Award:
        """The same, as the lifecycle knows it."""
        return Award.model_validate(self.model_dump(include=set(AskedBody.model_fields)))


class AmountsBody(AskedBody):
    """All that is asked for, with the credits: the tier's own when left out of a request for a term."""

    credits: Credits | None = None

    @property
    def amounts(self) -> Award:
        """The same, as the lifecycle knows it."""
        return Award.model_validate(self.model_dump())


class AwardBody(AmountsBody):
    """What is given when that differs from what was asked; `renewable` false for an award that is given once."""

    renewable: bool = True

    @property
    def award(self) -> Award:
        """The same, as the lifecycle knows it."""
        return Award.model_validate(self.model_dump())


class OverrideLimitsBody(Body):
    """The limits that an override sets; what is left out stays."""

    servers_per_person: SomeOrNone | None = None
    cores: SomeOrNone | None = None
    gpus: SomeOrNone | None = None
    largest: Largest | None = None
    idle_seconds: Seconds | None = None
    longest_session_seconds: Seconds | None = None

    @property
    def limits(self) -> OverrideLimits:
        """The same, as the lifecycle knows it."""
        return OverrideLimits.model_validate(self.model_dump())
