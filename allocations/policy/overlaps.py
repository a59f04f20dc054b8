"""Compares the rules of purges with each other: which take files of others, and which can never take any.

Not by trying some paths: the patterns are run together as automata over every path that there can be, so that what is
found is a real path, and what is not found does not exist.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from allocations.policy.patterns import ANY_BYTE, SLASH, Automaton

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allocations.policy.storage import PurgeRule, StoragePolicy

# Beyond so many states of the automata together the patterns are refused as too involved.
STATES_MAX = 50_000
# Bytes that stand for others in the paths that are shown, best first.
_SHOWN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."

_Gone = None
_RuleState = tuple[frozenset[int], frozenset[int]] | None


def problems(policy: StoragePolicy, tiers: Sequence[str]) -> list[str]:
    """Return what is wrong with the rules, a sentence each, nothing when all is well; `tiers`: those that there are."""
    found: list[str] = []
    for one in policy.classes:
        found += [f"classes: {one.name}: there is no tier {tier!r}" for tier in one.limits_gb if tier not in tiers]
    for rule in policy.rules:
        found += [f"rules: {rule.name}: there is no tier {tier!r}" for tier in rule.tiers if tier not in tiers]
    if found:
        return found
    try:
        return list(_compare(policy))
    except _TooManyStatesError as error:
        return [f"rules: {', '.join(error.args)}: their patterns are too involved to be compared: write fewer stars"]


class _TooManyStatesError(Exception):
    """The automata of some rules (the arguments) have too many states together."""


class _Findings:
    """What was found about the rules over all areas that there can be."""

    def __init__(self) -> None:
        self.takes: set[str] = set()  # rules that decide on some file
        self.matches: set[str] = set()  # rules that would, were it not for others
        self.overlaps: dict[tuple[str, str], bytes] = {}
        self.before: dict[str, set[str]] = {}


def _compare(policy: StoragePolicy) -> Iterator[str]:
    findings = _Findings()
    for rules in _together(policy):
        _explore(policy, rules, findings)
    by_name = {rule.name: rule for rule in policy.rules}
    for rule in policy.rules:
        if rule.name not in findings.matches:
            why = (
                "no tier has storage of its class"
                if not _has_areas(policy, rule)
                else "its paths lie within not_paths or kept folders"
            )
            yield f"rules: {rule.name}: can never match: {why}"
        elif rule.name not in findings.takes:
            earlier = ", ".join(sorted(findings.before[rule.name]))
            yield f"rules: {rule.name}: can never match: all its files are taken by earlier rules ({earlier})"
    for (earlier, later), path in findings.overlaps.items():
        if later not in by_name[earlier].before and later in findings.takes:
            yield (
                f"rules: {earlier} and {later} overlap, for example at {path.decode('utf-8', 'backslashreplace')!r}: "
                f"make their paths differ, or write `before: [{later}]` in {earlier}"
            )
    for rule in policy.rules:
        for later in rule.before:
            if (rule.name, later) not in findings.overlaps:
                yield f"rules: {rule.name}: before names {later}, of which it takes no files"


def _has_areas(policy: StoragePolicy, rule: PurgeRule) -> bool:
    tiers = policy.storage_class(rule.storage).limits_gb
    return any(not rule.tiers or tier in rule.tiers for tier in tiers)


def _together(policy: StoragePolicy) -> set[tuple[PurgeRule, ...]]:
    """Return the sets of rules that can apply to one file: by class, tier, state and size class."""
    sizes: list[str | None] = [one.name for one in policy.size_classes] or [None]
    found = set()
    for one in policy.classes:
        of_class = [rule for rule in policy.rules if rule.storage == one.name]
        for state in {state for rule in of_class for state in rule.states}:
            for tier in one.limits_gb:
                for size in sizes:
                    rules = policy.rules_for(one.name, tier, state)
                    found.add(tuple(rule for rule in rules if not rule.sizes or size in rule.sizes))
    return found - {()}


def _explore(policy: StoragePolicy, rules: tuple[PurgeRule, ...], findings: _Findings) -> None:
    """Run the rules over all paths of files, shortest first."""
    kept = Automaton(policy.kept_patterns(rules[0].storage))
    wanted = [Automaton(rule.patterns) for rule in rules]
    unwanted = [Automaton(rule.not_patterns) for rule in rules]
    letters = _letters([kept, *wanted, *unwanted])
    start: tuple[_RuleState, ...] = tuple((yes.start, no.start) for yes, no in zip(wanted, unwanted, strict=True))
    queue = deque([(start, kept.start, True, b"")])
    seen = {(start, kept.start, True)}
    while queue:
        states, kept_state, empty_name, path = queue.popleft()
        if not empty_name and not kept.accepts(kept_state):
            accepted = [
                rule.name
                for rule, yes, no, state in zip(rules, wanted, unwanted, states, strict=True)
                if state is not _Gone and yes.accepts(state[0]) and not no.accepts(state[1])
            ]
            _note(accepted, path, findings)
        for byte in letters:
            if byte == SLASH and empty_name:
                continue
            after_kept = kept.step(kept_state, byte)
            if after_kept == Automaton.EVERYTHING:
                continue
            after = tuple(_step(yes, no, state, byte) for yes, no, state in zip(wanted, unwanted, states, strict=True))
            key = (after, after_kept, byte == SLASH)
            if key in seen or all(state is _Gone for state in after):
                continue
            if len(seen) == STATES_MAX:
                raise _TooManyStatesError(*(rule.name for rule in rules))
            seen.add(key)
            queue.append((*key, path + bytes([byte])))


def _step(yes: Automaton, no: Automaton, state: _RuleState, byte: int) -> _RuleState:
    if state is _Gone:
        return _Gone
    after, after_no = yes.step(state[0], byte), no.step(state[1], byte)
    return _Gone if after == Automaton.NOTHING or after_no == Automaton.EVERYTHING else (after, after_no)


def _note(accepted: list[str], path: bytes, findings: _Findings) -> None:
    findings.matches.update(accepted)
    findings.takes.update(accepted[:1])
    for number, later in enumerate(accepted):
        for earlier in accepted[:number]:
            findings.overlaps.setdefault((earlier, later), path)
            findings.before.setdefault(later, set()).add(earlier)


def _letters(automata: list[Automaton]) -> list[int]:
    """Return one byte for each kind of bytes that the patterns tell apart, the slash last."""
    sets = set().union(*(automaton.sets() for automaton in automata))
    kinds: dict[frozenset[frozenset[int]], int] = {}
    for byte in [*_SHOWN, *sorted(ANY_BYTE - set(_SHOWN) - {SLASH})]:
        kinds.setdefault(frozenset(of for of in sets if byte in of), byte)
    return [*kinds.values(), SLASH]
