"""What a spawner remembers about the lease of its server, in the form that is kept in the hub's database."""

from datetime import UTC, datetime
from typing import Self

from pydantic import BaseModel, ValidationError

from hub.client import Lease, LeaseRequest, Resources

STATE_KEY = "meridian_lease"


def utc_now() -> datetime:
    """The hub's clock. The service judges all times that the hub reports by its own clock."""
    return datetime.now(UTC)


class LeaseRecord(BaseModel):
    """One attempt to start a server, from before the request for its lease to the hand-over of its end.

    `lease_id` is None until the service has answered. `process_started_at` is None until there is a
    process: it decides between settling (there was one) and voiding (there never was). `start_acknowledged`
    tells whether the service knows of the start.
    """

    idempotency_key: str
    request: LeaseRequest
    lease_id: str | None = None
    allocation_name: str = ""
    microcredits_per_hour: int = 0
    resources: Resources | None = None
    home_state: str | None = None
    process_started_at: datetime | None = None
    start_acknowledged: bool = False

    def hold(self, lease: Lease) -> None:
        """Take over what the service has granted."""
        self.lease_id = lease.id
        self.allocation_name = lease.allocation_name
        self.microcredits_per_hour = lease.microcredits_per_hour
        self.resources = lease.resources
        self.home_state = lease.home_state

    def to_state(self) -> dict[str, object]:
        """JSON-ready, for `get_state`."""
        return self.model_dump(mode="json")

    @classmethod
    def from_state(cls, state: object) -> Self | None:
        """Read back `to_state`; None when there is nothing, or nothing that this version understands."""
        try:
            return cls.model_validate(state) if state else None
        except ValidationError:
            return None
