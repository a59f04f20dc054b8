"""Awards on pages: what is asked for beside what was awarded before and what is given, and the fields of forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.api.v1.awards import RESOURCE_MAX
from allocations.errors import InvalidInputError
from allocations.lifecycle.asked import FIELDS_OF, PANEL_KINDS
from allocations.lifecycle.models import Award, RequestKind
from allocations.policy.models import AtOnce, Shape
from allocations.web.formats import to_credits, to_day
from allocations.web.forms import to_whole, to_whole_between

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from allocations.policy.models import Tier
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
# The fields that forms have for amounts, for each of the largest sizes, and for what runs at once.
TITLES = {"credits": "Credits", "gpu_hours": "GPU-hours", "core_hours": "Core-hours", "term_days": "Days"}
SHAPE_TITLES = {"cores": "Cores", "memory_gib": "Memory in GiB", "gpus": "GPUs"}
AT_ONCE_TITLES = {"servers_per_person": "Servers a person", "cores": "Cores", "gpus": "GPUs"}
SHAPES_MAX = 10
FIELD_NAMES = (
    *TITLES,
    *(f"largest_{row}_{name}" for row in range(SHAPES_MAX) for name in SHAPE_TITLES),
    *(f"at_once_{name}" for name in AT_ONCE_TITLES),
)
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


def needs_panel(found: RequestView, tier: Tier) -> bool:
    """Say whether a panel decides on a request."""
    return tier.review == "panel" and found.kind in PANEL_KINDS


def asked_of(found: RequestView) -> Award:
    """Return all that a request asks for, credits included."""
    return Award.model_validate(found.asked.model_dump())


def award_rows(found: RequestView, tier: Tier, before: StandingView | None) -> list[AwardRow]:
    """Return what was awarded before, what is asked for and what was given, line by line."""
    kind, asked = RequestKind(found.kind), found.asked
    held = _held(before, tier) if before else {}
    unchanged = "as the tier says" if kind in TERM_KINDS else UNCHANGED
    rows = []
    for name, title in TITLES.items():
        if name in FIELDS_OF[kind]:
            awarded = None if found.awarded is None else _amount(kind, name, found.awarded, tier)
            rows.append(AwardRow(title, held.get(name), _amount(kind, name, asked, tier), awarded))
    for name, title in (("largest", "Largest sizes"), ("at_once", "At once")):
        words = [None if award is None else _sizes(name, award) for award in (asked, found.awarded)]
        if any(words) or (before and kind is RequestKind.RENEWAL and getattr(before, name)):
            awarded = None if found.awarded is None else words[1] or unchanged
            rows.append(AwardRow(title, held.get(name), words[0] or unchanged, awarded))
    if found.awarded is not None and kind in TERM_KINDS:
        renewable = "yes" if found.awarded.renewable else "no: it ends for good"
        rows.append(AwardRow("Renewable", None, "yes", renewable))
    return rows


UNCHANGED = "as it is"


def asked_in_words(found: RequestView) -> str:
    """Return what a request asks for in a line: `1,000 credits, 50 GPU-hours`."""
    return award_in_words(found.asked)


def award_in_words(award: AwardView | Award) -> str:
    """Return an award in a line."""
    parts = [
        f"{amount:,} {title.lower() if name != 'gpu_hours' else title}"
        for name, title in TITLES.items()
        if (amount := getattr(award, name))
    ]
    parts += [
        title for name, title in (("largest", "larger sizes"), ("at_once", "more at once")) if getattr(award, name)
    ]
    return ", ".join([*parts, *([] if award.renewable else ["not renewable"])])


def to_fields(award: AwardView | StandingView) -> dict[str, str]:
    """Return an award, or what there is of one, as forms show it."""
    fields = {name: "" if getattr(award, name) is None else str(getattr(award, name)) for name in TITLES}
    for row, shape in enumerate(award.largest or ()):
        fields |= {f"largest_{row}_{name}": str(getattr(shape, name)) for name in SHAPE_TITLES}
    if award.at_once is not None:
        fields |= {f"at_once_{name}": str(getattr(award.at_once, name)) for name in AT_ONCE_TITLES}
    return dict.fromkeys(FIELD_NAMES, "") | fields


def defaults_of(kind: RequestKind, before: StandingView) -> dict[str, str]:
    """Return what a form for more suggests: another term is like the last one; of more now, nothing is guessed."""
    if kind is RequestKind.RENEWAL:
        return to_fields(before)
    return dict.fromkeys(FIELD_NAMES, "") | ({"term_days": "30"} if kind is RequestKind.EXTENSION else {})


def at_once_of(tier: Tier, before: StandingView | None = None) -> AtOnce:
    """Return what runs at once before a request is decided: as awarded, or as the tier says."""
    return (before.at_once if before else None) or tier.at_once


def now_in_words(tier: Tier, before: StandingView | None = None) -> dict[str, str]:
    """Return the largest sizes, and what runs at once, before a request is decided."""
    largest = (before.largest if before else None) or tier.largest
    return {"largest": _shapes(largest), "at_once": _at_once(at_once_of(tier, before))}


def to_award(sent: Sent, kind: RequestKind, at_once: AtOnce, otherwise: Award | None = None) -> Award:
    """Read the fields of an award; what the form does not have stays as it is in `otherwise`.

    InvalidInputError names the field that is wrong. An empty field says nothing of its unit; of what runs at once, one
    that is left empty beside others is as in `at_once`.
    """
    changes: dict[str, int | bool | tuple[Shape, ...] | AtOnce | None] = {}
    for name, title in TITLES.items():
        if name in FIELDS_OF[kind] and name in sent.fields:
            changes[name] = _to_amount(sent.text(name), title, zero=name in {"gpu_hours", "core_hours"})
            if kind in ADDING and changes[name] == 0:
                changes[name] = None
    if "largest" in FIELDS_OF[kind] and sent.text("has_sizes"):
        changes |= {"largest": _to_largest(sent), "at_once": _to_at_once(sent, at_once)}
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


def _to_largest(sent: Sent) -> tuple[Shape, ...] | None:
    shapes = []
    for row in range(SHAPES_MAX):
        texts = {name: sent.text(f"largest_{row}_{name}") for name in SHAPE_TITLES}
        if not any(text.strip() for text in texts.values()):
            continue
        title = f"Largest size {row + 1}"
        numbers = {
            name: to_whole_between(text, f"{title}, {SHAPE_TITLES[name]}", 0 if name == "gpus" else 1, RESOURCE_MAX)
            for name, text in texts.items()
        }
        if numbers["cores"] is None or numbers["memory_gib"] is None:
            raise InvalidInputError(f"{title}: cores and memory are both needed.", "Enter both, or leave it empty.")
        shapes.append(Shape.model_validate(numbers | {"gpus": numbers["gpus"] or 0}))
    return tuple(shapes) or None


def _to_at_once(sent: Sent, otherwise: AtOnce) -> AtOnce | None:
    numbers = {
        name: to_whole_between(
            sent.text(f"at_once_{name}"), f"At once, {title}", 0 if name == "gpus" else 1, RESOURCE_MAX
        )
        for name, title in AT_ONCE_TITLES.items()
    }
    given = {name: number for name, number in numbers.items() if number is not None}
    return otherwise.model_copy(update=given) if given else None


def _held(before: StandingView, tier: Tier) -> dict[str, str]:
    return now_in_words(tier, before) | {
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


def _sizes(name: str, award: AwardView) -> str | None:
    if name == "largest":
        return _shapes(award.largest) if award.largest else None
    return _at_once(award.at_once) if award.at_once else None


def _shapes(shapes: Iterable[Shape]) -> str:
    return " or ".join(
        f"{_count(shape.cores, 'core')}, {shape.memory_gib:,} GiB"
        + (f", {_count(shape.gpus, 'GPU')}" if shape.gpus else "")
        for shape in shapes
    )


def _at_once(at_once: AtOnce) -> str:
    servers = _count(at_once.servers_per_person, "server")
    return f"{servers} a person, {_count(at_once.cores, 'core')}, {_count(at_once.gpus, 'GPU')}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
