"""What may be asked for and awarded: which units each kind of request has, and their bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocations.errors import InvalidInputError
from allocations.lifecycle.models import Award, RequestKind

if TYPE_CHECKING:
    from allocations.lifecycle.models import Request

TEXT_LENGTH_MAX = 20_000
TITLE_LENGTH_MAX = 80
CREDITS_MAX = 1_000_000
TERM_DAYS_MAX = 3660
HOURS_MAX = 100_000_000
SCORES = range(1, 6)
# Where a tier's review is a panel, it decides on these; one reviewer on the others.
PANEL_KINDS = frozenset({RequestKind.NEW, RequestKind.SUPPLEMENT, RequestKind.RENEWAL})
_MORE = frozenset({"credits", "gpu_hours", "core_hours", "largest", "at_once"})
# What an award of each kind may say.
FIELDS_OF: dict[RequestKind, frozenset[str]] = {
    RequestKind.NEW: _MORE | {"term_days"},
    RequestKind.INSTALMENT: frozenset({"credits"}),
    RequestKind.SUPPLEMENT: _MORE,
    RequestKind.EXTENSION: frozenset({"term_days"}),
    RequestKind.RENEWAL: _MORE | {"term_days"},
}


def asked_in(request: Request) -> Award:
    """Return all that is asked for, credits included."""
    return request.asked.model_copy(update={"credits": request.credits or None})


def require_credits(credits: int | None, otherwise: int) -> int:  # noqa: A002  # the unit's name
    """Return whole credits, `otherwise` where none are given; InvalidInputError outside of what may be asked for."""
    amount = otherwise if credits is None else credits
    if not 0 < amount <= CREDITS_MAX:
        raise InvalidInputError(
            f"Credits must lie between 1 and {CREDITS_MAX:,}.",
            "Enter how many credits a year are needed.",
        )
    return amount


def require_award(kind: RequestKind, award: Award, *, draft: bool = False) -> None:
    """Raise InvalidInputError when an award of this kind makes no sense, naming what to leave out or to add.

    A draft may ask for nothing yet.
    """
    given = {name for name, value in award if value is not None and name not in {"renewable", "instalments_released"}}
    allowed = FIELDS_OF[kind]
    if given - allowed:
        raise InvalidInputError(
            f"What is asked for here ({kind}) has no {sorted(given - allowed)[0]}.", "Leave it out."
        )
    if kind in {RequestKind.SUPPLEMENT, RequestKind.EXTENSION}:
        if not given and not draft:
            raise InvalidInputError("Nothing more is asked for.", f"Say how much: {', '.join(sorted(allowed))}.")
        if not award.renewable:
            raise InvalidInputError("Whether it is renewed is decided for a whole term.", "Leave it out.")
    if award.instalments_released != 1:
        raise InvalidInputError("Instalments are released one by one.", "Leave instalments_released out.")
    if award.credits is not None:
        require_credits(award.credits, award.credits)
    if award.term_days is not None and award.term_days > TERM_DAYS_MAX:
        raise InvalidInputError(f"A term has at most {TERM_DAYS_MAX:,} days.", "Enter fewer days.")
    if max(award.gpu_hours or 0, award.core_hours or 0) > HOURS_MAX:
        raise InvalidInputError(f"Hours must lie between 0 and {HOURS_MAX:,}.", "Enter fewer hours.")


def require_texts(title: str, justification: str, *, draft: bool = False) -> tuple[str, str]:
    """Return the texts of a request, cleaned; those of a draft may be empty still."""
    title = " ".join(title.split())
    justification = justification.strip()
    least = 0 if draft else 1
    if not least <= len(title) <= TITLE_LENGTH_MAX:
        raise InvalidInputError(f"A title has 1 to {TITLE_LENGTH_MAX} characters.", "Enter another title.")
    if not least <= len(justification) <= TEXT_LENGTH_MAX:
        raise InvalidInputError(
            f"A justification has 1 to {TEXT_LENGTH_MAX:,} characters.",
            "Say in a few sentences what it is for.",
        )
    return title, justification
