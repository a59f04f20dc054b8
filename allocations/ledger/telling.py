"""Shows the stories of leases and allocations on a terminal: plain words, and the sums with their figures."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from allocations.ledger.explain import LeaseStory
from allocations.ledger.models import Unit
from allocations.ledger.storage import BYTES_PER_GB
from allocations.policy.models import RESCUE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from allocations.ledger.explain import AllocationStory, Charged, Check, Step

MICROCREDITS_PER_CREDIT = 1_000_000
_VERBS = {
    "hold": "held",
    "renew": "renewed",
    "settle": "settled",
    "refund": "refunded",
    "void": "voided",
    "expire": "expired",
}
_NAMES = {Unit.CREDITS: "credits", Unit.CORE_SECONDS: "core-seconds", Unit.GPU_SECONDS: "GPU-seconds"}


def tell(console: Console, story: LeaseStory | AllocationStory) -> None:
    """Print a story."""
    if isinstance(story, LeaseStory):
        _tell_lease(console, story)
    else:
        _tell_allocation(console, story)
    for check in story.checks:
        _say(console, f"{_mark(check)} {escape(check.sentence)}")


def amount(number: int, unit: Unit) -> str:
    """Return an amount with its unit; credits with every digit."""
    if unit is not Unit.CREDITS:
        return f"{number:,} {_NAMES[unit]}"
    digits = f"{Decimal(number) / MICROCREDITS_PER_CREDIT:,f}"
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits} credits"


def _tell_lease(console: Console, story: LeaseStory) -> None:
    gpus = f", {story.gpus} x {story.gpu_type}" if story.gpus else ""
    _say(console, f"[bold]{escape(story.id)}[/]: {story.kind} lease of {escape(story.person)}, {story.state}")
    _say(
        console,
        f"Size {escape(story.size)}: {story.cores} cores, {story.memory_gib} GiB{gpus}; image {escape(story.image)}.",
    )
    _say(console, _rate(story))
    if story.path:
        _say(console, "Just before it was held, each allocation on its path had:")
    for node in story.path:
        _say(
            console,
            f"  {escape(node.name)} ({escape(node.allocation)}): limit {amount(node.limit, node.unit)}"
            f" - held {amount(node.held, node.unit)} - charged {amount(node.posted, node.unit)}"
            f" = {amount(node.left, node.unit)} left",
        )
    for step in story.steps:
        _say(console, f"{step.at}  {_VERBS.get(step.kind, step.kind)} by {escape(step.actor)}: {_deeds(step)}")
    if story.ended_at is None:
        _say(console, "It is still open: what is held is not charged yet.")
    else:
        began = f"It ran from {story.started_at}" if story.started_at else "It never started; it ended"
        until = f" to {story.ended_at}" if story.started_at else f" at {story.ended_at}"
        _say(console, f"{began}{until} and was {story.state}: {escape(story.end_reason or 'no reason is recorded')}.")
    for total in story.totals:
        per_second = amount(total.per_second, total.unit)
        charged = amount(total.charged, total.unit)
        _say(console, f"[bold]Charged: {per_second} a second x {total.seconds:,} s = {charged}[/]")


def _rate(story: LeaseStory) -> str:
    if story.size == RESCUE:
        return "Rate: none; a rescue server, for freeing space, is free of charge."
    rate = f"{story.microcredits_per_second:,} microcredits a second"
    under = f" (policy version {escape(story.policy_version)})" if story.policy_version else ""
    prices = story.prices
    if prices is None:
        return f"Rate: {rate}{under}; these policy files have no prices for the time when it was held."
    gpu = f" + {story.gpus} GPUs x {prices.per_gpu_second}" if story.gpus else ""
    derived = (
        f"{story.cores} cores x {prices.per_core_second} + {story.memory_gib} GiB x {prices.per_gib_second}{gpu}"
        f" = {prices.rate:,}"
    )
    differs = "" if prices.rate == story.microcredits_per_second else "; the policy's files have changed since"
    return f"Rate: {rate}{under}. Prices in force from {prices.effective}: {derived}{differs}."


def _deeds(step: Step) -> str:
    parts = []
    if step.charged:
        parts.append(
            f"charged {amount(step.charged, step.unit)} for seconds {step.from_second:,} to {step.to_second:,}"
        )
    if step.refunded:
        parts.append(
            f"gave back {amount(step.refunded, step.unit)} for seconds {step.from_second:,} to {step.to_second:,},"
            " after its end"
        )
    if step.quantities:
        quantities = ", ".join(f"{value:,} {name.replace('_', '-')}" for name, value in step.quantities.items())
        parts.append(f"physically {quantities}")
    if step.freed:
        parts.append(f"freed {amount(step.freed, step.unit)}")
    if step.held:
        parts.append(f"held {amount(step.held, step.unit)}{' ahead' if step.kind == 'renew' else ''}")
    if step.memo:
        parts.append(escape(step.memo))
    return "; ".join(parts)


def _tell_allocation(console: Console, story: AllocationStory) -> None:
    within = f", a part of {escape(story.parent)}" if story.parent else ""
    _say(console, f"[bold]{escape(story.name)}[/] ({escape(story.id)}): {story.tier}, {story.state}{within}")
    limits = Table("When", "What", "Amount", "Limit after", "Who", "Why", title="Its limit", title_justify="left")
    for change in story.limits:
        why = "; ".join(filter(None, (change.memo, change.why)))
        sign = "+" if change.amount > 0 else ""
        limits.add_row(
            change.at,
            change.kind,
            f"{sign}{amount(change.amount, change.unit)}",
            amount(change.limit_after, change.unit),
            escape(change.actor),
            escape(why),
        )
    console.print(limits)
    held = Table("Lease", "Person", "On", "Held", "Until", title="Held now by open leases", title_justify="left")
    for hold in story.open_holds:
        held.add_row(
            hold.lease, escape(hold.person), escape(hold.allocation_name), amount(hold.amount, hold.unit), hold.ends_at
        )
    console.print(held)
    _tell_charged(console, "Charged, by person", story.by_person)
    _tell_charged(console, "Charged, by sub-allocation", story.by_sub_allocation)
    if story.storage:
        storage = Table(
            "Area", "Class", "Whose", "Days", "GB-days", "Charged", "Owed", title="Storage", title_justify="left"
        )
        for area in story.storage:
            storage.add_row(
                area.area,
                area.storage_class,
                escape(area.owner),
                f"{area.days:,}",
                f"{area.byte_days / BYTES_PER_GB:,.3f}",
                amount(area.charged, Unit.CREDITS),
                amount(area.owed, Unit.CREDITS),
            )
        console.print(storage)
    for one in story.balances:
        _say(
            console,
            f"[bold]limit {amount(one.limit, one.unit)} - held {amount(one.held, one.unit)}"
            f" - charged {amount(one.posted, one.unit)} = {amount(one.left, one.unit)} left[/]",
        )


def _tell_charged(console: Console, title: str, rows: Sequence[Charged]) -> None:
    table = Table("", "Charged", title=title, title_justify="left")
    for one in rows:
        table.add_row(escape(one.name), amount(one.amount, one.unit))
    console.print(table)


def _mark(check: Check) -> str:
    return "[green]checks[/]" if check.holds else "[red]does not check[/]"


def _say(console: Console, sentence: str) -> None:
    console.print(sentence, highlight=False, soft_wrap=True)
