"""What a benchmark found: pairs of measurements, shown as tables or as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

SHARP_DIGITS_BELOW = 100


class Step(Protocol):
    """Moves the progress bar on by one step, and says what comes next."""

    def __call__(self, doing: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity of both sides, measured in pairs: `ours[i]` and `theirs[i]` directly after one another.

    `limit` is what ours must stay below, in the same unit; `processor` what ours took of all processors, in
    milliseconds, which tells more than the clock where others share the machine.
    """

    what: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float]
    limit: float | None = field(default=None, kw_only=True)
    processor: Sequence[float] = field(default=(), kw_only=True)

    @property
    def ratio(self) -> float:
        """The median over the pairs of ours by theirs: what drifts between pairs cancels."""
        return median(ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True))

    @property
    def of_limit(self) -> float | None:
        """The median of ours by the limit, None without one."""
        return None if self.limit is None else median(self.ours) / self.limit


@dataclass(frozen=True, slots=True)
class Share:
    """A part of our side alone: where its time goes."""

    what: str
    unit: str
    ours: Sequence[float]


@dataclass(slots=True)
class Section:
    """A table of comparisons, and of the parts of our side."""

    title: str
    comparisons: list[Comparison] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """A benchmark's result: what is compared with what, the tables, and what else was found."""

    name: str
    compares: str
    theirs: str
    sections: list[Section] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def show(self, console: Console) -> None:
        """Print everything."""
        console.print(f"\n[bold]{self.name}[/]: {self.compares}")
        for section in self.sections:
            console.print(_table(section, self.theirs))
        for note in self.notes:
            console.print(note)

    def to_json(self) -> dict[str, Any]:
        """Return every single measurement and the ratios."""
        return {
            "name": self.name,
            "compares": self.compares,
            "sections": [
                {
                    "title": section.title,
                    "comparisons": [
                        {
                            "what": one.what,
                            "unit": one.unit,
                            "ours": list(one.ours),
                            "theirs": list(one.theirs),
                            "ratio": one.ratio,
                            **({"limit": one.limit, "of_limit": one.of_limit} if one.limit is not None else {}),
                            **({"processor_ms": list(one.processor)} if one.processor else {}),
                        }
                        for one in section.comparisons
                    ],
                    "shares": [{"what": one.what, "unit": one.unit, "ours": list(one.ours)} for one in section.shares],
                }
                for section in self.sections
            ],
            "notes": self.notes,
        }


def _table(section: Section, theirs: str) -> Table:
    table = Table(title=section.title, title_justify="left", title_style="bold")
    table.add_column("median (min–max)")
    table.add_column("Meridian", justify="right", no_wrap=True)
    table.add_column(theirs, justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    if any(one.limit is not None for one in section.comparisons):
        table.add_column("of the limit", justify="right", no_wrap=True)
    if any(one.processor for one in section.comparisons):
        table.add_column("processor, ms", justify="right", no_wrap=True)
    for one in section.comparisons:
        beside = [] if one.of_limit is None else [f"{one.of_limit:.2f}"]
        beside += [_figure(median(one.processor))] if one.processor else []
        table.add_row(f"{one.what}, {one.unit}", _spread(one.ours), _spread(one.theirs), f"{one.ratio:.2f}", *beside)
    if section.shares:
        table.add_section()
    for share in section.shares:
        table.add_row(f"{share.what}, {share.unit}", _spread(share.ours), "", "")
    return table


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return _figure(values[0])
    return f"{_figure(median(values))} ({_figure(min(values))}–{_figure(max(values))})"


def _figure(value: float) -> str:
    return f"{value:,.2f}" if value < SHARP_DIGITS_BELOW else f"{value:,.0f}"
