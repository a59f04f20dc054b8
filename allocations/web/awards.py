"""Awards on pages: what is asked for beside what was awarded before and what is given, and the fields of forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import InvalidInputError
from allocations.lifecycle.models import Award, RequestKind
from allocations.lifecycle.requests import FIELDS_OF
from allocations.web.formats import to_credits, to_day
from allocations.web.forms import to_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allocations.policy.models import Shape, Tier
    from allocations.reports.awards import StandingView
    from allocations.reports.requests import AwardView, RequestView
    from allocations.web.session import Sent

KINDS = {
    RequestKind.NEW: "New allocation",
    RequestKind.INSTALMENT: "Next instalment",
    RequestKind.SUPPLEMENT: "Supplement",
    RequestKind.EXTENSION: "Extension",
    RequestKind.RENEWAL: "Renewal",
}
# The fields that forms have; the largest sizes and what runs at once are asked for through the API.
TITLES = {"credits": "Credits", "gpu_hours": "GPU-hours", "core_hours": "Core-hours", "term_days": "Days"}
ADDING = frozenset({RequestKind.SUPPLEMENT, RequestKind.EXTENSION})
TERM_KINDS = frozenset({RequestKind.NEW, RequestKind.RENEWAL})


@dataclass(frozen=True, slots=True)
class AwardRow:
    """A line of the table of an award; None where there is nothing to compare with."""

    title: str
    before: str | None
    asked: str
    awarded: str | None

    @property
    def differs(self) -> bool:
        """Whether something else was given than was asked for."""
        return self.awarded is not None and self.awarded != self.asked


def asked_of(found: RequestView) -> Award:
    """Return all that a request asks for, credits included."""
    return Award.model_validate(found.asked.model_dump())


def award_rows(found: RequestView, tier: Tier, before: StandingView | None) -> list[AwardRow]:
    """Return what was awarded before, what is asked for and what was given, line by line."""
    kind, asked = RequestKind(found.kind), found.asked
    held = _held(before) if before else {}
    rows = []
    for name, title in TITLES.items():
        if name in FIELDS_OF[kind]:
            awarded = None if found.awarded is None else _amount(kind, name, found.awarded, tier)
            rows.append(AwardRow(title, held.get(name), _amount(kind, name, asked, tier), awarded))
    for name, title in (("largest", "Largest sizes"), ("at_once", "At once")):
        words = [None if award is None else _sizes(name, award) for award in (asked, found.awarded)]
        if any(word not in {None, UNCHANGED} for word in words):
            rows.append(AwardRow(title, None, words[0] or UNCHANGED, words[1]))
    if found.awarded is not None and kind in TERM_KINDS:
        renewable = "yes" if found.awarded.renewable else "no: it ends for good"
        rows.append(AwardRow("Renewable", None, "yes", renewable))
    return rows


UNCHANGED = "as it is"


def asked_in_words(found: RequestView) -> str:
    """Return what a request asks for in a line: `1,000 credits, 50 GPU-hours`."""
    asked = found.asked
    parts = [
        f"{amount:,} {title.lower() if name != 'gpu_hours' else title}"
        for name, title in TITLES.items()
        if (amount := getattr(asked, name))
    ]
    parts += [
        title for name, title in (("largest", "larger sizes"), ("at_once", "more at once")) if getattr(asked, name)
    ]
    return ", ".join(parts)


def to_fields(award: AwardView) -> dict[str, str]:
    """Return an award as forms show it."""
    return {name: "" if getattr(award, name) is None else str(getattr(award, name)) for name in TITLES}


def defaults_of(kind: RequestKind, before: StandingView) -> dict[str, str]:
    """Return what a form for more suggests: another term is like the last one; of more now, nothing is guessed."""
    if kind is RequestKind.RENEWAL:
        return {name: "" if getattr(before, name) is None else str(getattr(before, name)) for name in TITLES}
    return dict.fromkeys(TITLES, "") | ({"term_days": "30"} if kind is RequestKind.EXTENSION else {})


def to_award(sent: Sent, kind: RequestKind, otherwise: Award | None = None) -> Award:
    """Read the fields of an award; what the form does not have stays as it is in `otherwise`.

    InvalidInputError names the field that is wrong. An empty field says nothing of its unit.
    """
    changes: dict[str, int | bool | None] = {}
    for name, title in TITLES.items():
        if name in FIELDS_OF[kind] and name in sent.fields:
            changes[name] = _to_amount(sent.text(name), title, zero=name in {"gpu_hours", "core_hours"})
            if kind in ADDING and changes[name] == 0:
                changes[name] = None
    if kind in TERM_KINDS and sent.text("has_renewable"):
        changes["renewable"] = sent.text("renewable") == "yes"
    return (otherwise or Award()).model_copy(update=changes)


def fields_of(kind: RequestKind) -> Mapping[str, str]:
    """Return the names and titles of the fields that a form for a kind has."""
    return {name: title for name, title in TITLES.items() if name in FIELDS_OF[kind]}


def _to_amount(text: str, title: str, *, zero: bool) -> int | None:
    if not text.strip():
        return None
    amount = to_whole(text, title)
    if amount == 0 and not zero:
        raise InvalidInputError(f"{title}: must be above 0.", "Enter another number, or leave the field empty.")
    return amount


def _held(before: StandingView) -> dict[str, str]:
    return {
        "credits": f"{before.credits:,} for the term; {to_credits(before.limit_microcredits)} granted, "
        f"{to_credits(before.posted_microcredits)} spent",
        "gpu_hours": "none" if before.gpu_hours is None else f"{before.gpu_hours:,}",
        "core_hours": "no limit but the credits" if before.core_hours is None else f"{before.core_hours:,}",
        "term_days": f"{before.term_days:,}, until {to_day(before.ends_at)}",
    }


def _amount(kind: RequestKind, name: str, award: AwardView, tier: Tier) -> str:
    amount: int | None = getattr(award, name)
    if kind in ADDING:
        return "nothing more" if amount is None else f"{amount:,} more"
    if amount is not None:
        return f"{amount:,}"
    return {
        "credits": f"{tier.budget.credits:,}",
        "gpu_hours": "none",
        "core_hours": "no limit but the credits",
        "term_days": f"{tier.term_days:,}",
    }[name]


def _sizes(name: str, award: AwardView) -> str:
    if name == "largest":
        return " or ".join(_shape(shape) for shape in award.largest) if award.largest else UNCHANGED
    at_once = award.at_once
    if at_once is None:
        return UNCHANGED
    return f"{at_once.servers_per_person} servers a person, {at_once.cores:,} cores, {at_once.gpus:,} GPUs"


def _shape(shape: Shape) -> str:
    return f"{shape.cores} cores, {shape.memory_gib} GiB" + (f", {shape.gpus} GPUs" if shape.gpus else "")
