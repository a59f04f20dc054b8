"""Says in words which rule of the policy decides on a file, for people who write or read the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import InvalidInputError
from allocations.storage.purge.rules import KEPT, NO_RULE, AreaRules

if TYPE_CHECKING:
    from allocations.policy.models import Policy, Tier


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a file: `rule` and its age in days, or None where it stays for ever; a sentence."""

    rule: str | None
    age_days: int | None
    limit_bytes: int
    sentence: str


def decide(policy: Policy, storage: str, tier: str, state: str, path: str, size_bytes: int) -> Decision:
    """Decide on a file at a path (relative to its area); raises InvalidInputError."""
    if tier not in {one.name for one in policy.tiers}:
        raise InvalidInputError(f"There is no tier {tier!r}.", f"Name one of {_names(policy.tiers)}.")
    of_class = {str(one.name): one for one in policy.storage.classes}.get(storage)
    limit = of_class.limit_bytes(tier) if of_class else None
    if of_class is None or limit is None:
        raise InvalidInputError(f"Tier {tier!r} has no storage of class {storage!r}.", "See storage.yaml.")
    folder, _, name = path.strip("/").rpartition("/")
    if not name or {".", ".."} & set(path.split("/")):
        raise InvalidInputError(f"{path!r} is no path of a file.", "Give it relative to its area: results/a.fits.")
    rules = AreaRules(policy.storage, storage=storage, tier=tier, state=state, as_of_ms=0)
    number = rules.folder(folder).rule_of(name, size_bytes)
    if number >= 0:
        days = rules.ages_days[number]
        since = "modified, read or first seen" if of_class.keeps_atime else "modified or first seen"
        sentence = f"Rule {rules.names[number]} removes it {days} days after it was last {since}, with notice before."
        return Decision(rules.names[number], days, limit, sentence)
    assert number in (KEPT, NO_RULE)
    why = "it is in a folder that tools need" if number == KEPT else "no rule holds for it"
    return Decision(None, None, limit, f"It stays: {why}.")


def _names(items: tuple[Tier, ...]) -> str:
    return ", ".join(item.name for item in items)
