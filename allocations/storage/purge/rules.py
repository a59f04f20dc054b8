"""Decides which rule of the policy holds for an entry of an area, folder by folder so that most need no comparison."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY, NS_PER_MS
from allocations.policy.storage import KeptFolders, PurgeRule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from allocations.policy.patterns import Pattern
    from allocations.policy.storage import StoragePolicy

NS_PER_DAY = MS_PER_DAY * NS_PER_MS
# What stands in place of the number of a rule.
NO_RULE, KEPT, EXEMPT = -1, -2, -3
# The rule that takes a whole area; a name that no rule of a policy can have.
ENDED_RULE = "allocation ended"
# Later than any date that a file can have.
_NEVER_NS = 1 << 80
_OURS = "/.meridian/"


@dataclass(frozen=True, slots=True)
class Exemption:
    """A file, or a folder with all that is in it, that stays until a moment; `""`: the whole area."""

    path: str
    until_ms: int


class Matcher:
    """The union of patterns, compiled: against folders, and against files in folders that did not match."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        """Compile."""
        patterns = tuple(patterns)
        self.everything = any(pattern.is_everything for pattern in patterns)
        self._folder = _compile(patterns)
        self._file = _compile(tuple(pattern for pattern in patterns if not pattern.folder_only))

    def takes_folder(self, path: bytes) -> bool:
        """Say whether a folder matches, and all in it; the path ends with a slash, or is empty for the area itself."""
        return self.everything or bool(path and self._folder and self._folder.fullmatch(path))

    @property
    def may_take_files(self) -> bool:
        """Whether a file may match though its folder did not."""
        return self._file is not None

    def takes_file(self, path: bytes) -> bool:
        """Say whether a file matches, whose folder did not."""
        return self._file is not None and self._file.fullmatch(path) is not None


def _compile(patterns: tuple[Pattern, ...]) -> re.Pattern[bytes] | None:
    if not patterns:
        return None
    return re.compile(b"|".join(b"(?:%s)" % pattern.regex() for pattern in patterns), re.DOTALL)


class AreaRules:
    """The rules for one area at one moment: those of its class and tier, and of the state of its allocation.

    `newest_ns[number]`: what is not older than this moment stays under a rule; `names[number]`: the rule's name.
    """

    def __init__(
        self,
        policy: StoragePolicy,
        *,
        storage: str,
        tier: str,
        state: str,
        as_of_ms: int,
        exemptions: Iterable[Exemption] = (),
        extended_days: int | None = None,
    ) -> None:
        """Choose and compile; `extended_days`: the age that a lead has asked for, within the policy."""
        rules = policy.rules_for(storage, tier, state)
        self.as_of_ms = as_of_ms
        self.area_class = policy.storage_class(storage)
        self.names = tuple(rule.name for rule in rules)
        self.ages_days = tuple(rule.age_for(extended_days) for rule in rules)
        self.newest_ns = tuple(as_of_ms * NS_PER_MS - days * NS_PER_DAY for days in self.ages_days)
        self._policy = policy
        self._kept = Matcher(policy.kept_patterns(storage))
        self.compiled = tuple(_Compiled(number, rule) for number, rule in enumerate(rules))
        self._exempt = {one.path for one in exemptions if one.until_ms > as_of_ms}
        self._exempt_in: dict[str, set[str]] = {}
        for path in self._exempt:
            folder, _, name = path.rpartition("/")
            self._exempt_in.setdefault(folder, set()).add(name)

    @classmethod
    def whole(
        cls, policy: StoragePolicy, *, storage: str, as_of_ms: int, exemptions: Iterable[Exemption] = ()
    ) -> AreaRules:
        """Return the one rule of an area whose owner's allocation has ended: all of it goes, however old it is, but for
        our own lists and what is exempt."""
        everything = PurgeRule(name="ended", storage=storage, age_days=1).model_copy(update={"name": ENDED_RULE})
        ours = KeptFolders(classes=(storage,), folders=(_OURS,), why="The platform's own lists.")
        alone = policy.model_copy(update={"rules": (everything,), "kept": (ours,)})
        rules = cls(alone, storage=storage, tier="", state="active", as_of_ms=as_of_ms, exemptions=exemptions)
        rules.ages_days, rules.newest_ns = (0,), (_NEVER_NS,)
        return rules

    def size_class(self, size_bytes: int) -> str | None:
        """Return the policy's class of a size."""
        return self._policy.size_class(size_bytes)

    def folder(self, path: str) -> FolderRules:
        """Return what holds in a folder, `""` for the area itself."""
        as_bytes = os.fsencode(path) + b"/" if path else b""
        if self._exempt and self._is_exempt(path):
            return FolderRules(self, as_bytes, (), EXEMPT, frozenset())
        if self._kept.takes_folder(as_bytes):
            return FolderRules(self, as_bytes, (), KEPT, frozenset())
        return FolderRules(self, as_bytes, self.compiled, None, frozenset(self._exempt_in.get(path, ())))

    def _is_exempt(self, path: str) -> bool:
        while path:
            if path in self._exempt:
                return True
            path = path.rpartition("/")[0]
        return "" in self._exempt


class _Compiled:
    """A rule with its patterns compiled."""

    def __init__(self, number: int, rule: PurgeRule) -> None:
        self.number = number
        self.wanted = Matcher(rule.patterns)
        self.unwanted = Matcher(rule.not_patterns)
        self.sizes = frozenset(rule.sizes)


class FolderRules:
    """What holds for the entries of a folder, and for the folder itself.

    `sole` is the rule for everything in it, whatever its name and size (or NO_RULE, KEPT, EXEMPT); None: it depends.
    `itself`: the rule for the folder, once it is empty.
    """

    __slots__ = ("_area", "_exempt", "_path", "_pending", "itself", "sole")

    def __init__(
        self, area: AreaRules, path: bytes, rules: tuple[_Compiled, ...], left: int | None, exempt: frozenset[str]
    ) -> None:
        """Settle what the path of the folder settles; `left`: all of it is KEPT or EXEMPT."""
        self._area, self._path, self._exempt = area, path, exempt
        self._pending: list[tuple[_Compiled, bool]] = []
        self.itself = NO_RULE if left is None else left
        self.sole = left
        for rule in rules:
            if rule.unwanted.takes_folder(path):
                continue
            settled = rule.wanted.takes_folder(path)
            if not settled and not rule.wanted.may_take_files:
                continue
            if settled and not rule.sizes and self.itself == NO_RULE and path:
                self.itself = rule.number
            self._pending.append((rule, settled))
            if settled and not rule.sizes and not rule.unwanted.may_take_files:
                break
        if left is None and not exempt:
            if not self._pending:
                self.sole = NO_RULE
            else:
                rule, settled = self._pending[0]
                if settled and not rule.sizes and not rule.unwanted.may_take_files:
                    self.sole = rule.number

    def rule_of(self, name: str, size_bytes: int) -> int:
        """Return the number of the rule for a file, or NO_RULE, KEPT or EXEMPT."""
        if self.sole is not None:
            return self.sole
        if name in self._exempt:
            return EXEMPT
        path = self._path + os.fsencode(name)
        size_class = self._area.size_class(size_bytes)
        for rule, settled in self._pending:
            if rule.sizes and size_class not in rule.sizes:
                continue
            if (settled or rule.wanted.takes_file(path)) and not rule.unwanted.takes_file(path):
                return rule.number
        return NO_RULE
