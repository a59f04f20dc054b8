"""Errors that reach people: each has a stable code, a sentence that says what is wrong, and a remedy."""

from __future__ import annotations

from typing import ClassVar


class AllocationsError(Exception):
    """The base: `detail` says what is wrong, `remedy` what to do next, `remedy_url` where (a path of the platform)."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 400
    title: ClassVar[str] = "The request could not be carried out"

    def __init__(self, detail: str, remedy: str = "", remedy_url: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        self.remedy_url = remedy_url


class AgreementRequiredError(AllocationsError):
    code = "agreement_required"
    status = 403
    title = "The user agreement has not been accepted"


class NotAMemberError(AllocationsError):
    code = "not_a_member"
    status = 403
    title = "Not a member of the allocation"


class PersonSuspendedError(AllocationsError):
    code = "person_suspended"
    status = 403
    title = "Suspended"


class NotAllowedError(AllocationsError):
    code = "not_allowed"
    status = 403
    title = "Not allowed"


class SizeNotAllowedError(AllocationsError):
    code = "size_not_allowed"
    status = 403
    title = "The size is above the tier's largest"


class InsufficientBalanceError(AllocationsError):
    code = "insufficient_balance"
    status = 403
    title = "The balance is not enough"


class AtOnceLimitError(AllocationsError):
    code = "at_once_limit"
    status = 403
    title = "Too much is running at once"


class MemberAtOnceLimitError(AtOnceLimitError):
    """What a lead lets one member run: others are not concerned."""


class AllocationNotActiveError(AllocationsError):
    code = "allocation_not_active"
    status = 403
    title = "The allocation is not active"


class StorageLockedError(AllocationsError):
    code = "storage_locked"
    status = 403
    title = "Storage is locked"


class NotFoundError(AllocationsError):
    code = "not_found"
    status = 404
    title = "Not found"


class UnknownAllocationError(NotFoundError):
    code = "unknown_allocation"
    title = "No such allocation"


class UnknownSizeError(AllocationsError):
    code = "unknown_size"
    status = 422
    title = "No such size"


class UnknownImageError(AllocationsError):
    code = "unknown_image"
    status = 422
    title = "No such image"


class InvalidImageReferenceError(AllocationsError):
    code = "invalid_image_reference"
    status = 422
    title = "No image and no reference to one"


class ImageEndedError(AllocationsError):
    code = "image_ended"
    status = 403
    title = "The version of the image has ended"


class ImageNotAllowedError(AllocationsError):
    code = "image_not_allowed"
    status = 403
    title = "The image may not be started so"


class InvalidInputError(AllocationsError):
    code = "invalid_input"
    status = 422
    title = "The input is not valid"


class IdempotencyConflictError(AllocationsError):
    code = "idempotency_conflict"
    status = 409
    title = "The idempotency key was used for another request"


class LeaseEndedError(AllocationsError):
    code = "lease_ended"
    status = 409
    title = "The lease has ended"


class TransitionError(AllocationsError):
    code = "transition_not_allowed"
    status = 409
    title = "Not possible in this state"


class PolicyError(AllocationsError):
    code = "policy_invalid"
    status = 500
    title = "The policy files are not valid"


class StateVersionError(AllocationsError):
    code = "state_version"
    status = 500
    title = "The database does not fit this version"
