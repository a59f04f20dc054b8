"""What `policies/storage.yaml` may say: classes of storage with their limits, and when files are purged or kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from allocations.policy.patterns import Pattern, parse

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

BYTES_PER_GB = 10**9
BYTES_PER_MB = 10**6

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$", description="Lower-case name, stable for ever")]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
StorageClassName = Literal["home", "scratch", "shared", "object"]
StateName = Literal["active", "expiring", "grace", "suspended", "archived", "closed"]


def _is_a_pattern(text: str) -> str:
    parse(text)
    return text


def _names_a_folder(text: str) -> str:
    if not parse(text).folder_only:
        raise ValueError(f"{text!r}: a folder ends with a slash")
    return text


PathPattern = Annotated[
    str,
    AfterValidator(_is_a_pattern),
    Field(min_length=1, max_length=200, description="As in a .gitignore, without !; \\xff is a byte"),
]
FolderPattern = Annotated[
    str,
    AfterValidator(_names_a_folder),
    Field(min_length=2, max_length=200, description="As a path, with / at its end"),
]


class StorageModel(BaseModel):
    """The base of the models of storage."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StorageClass(StorageModel):
    """A kind of storage: how much of it each tier gives, and what its mount tells about files."""

    name: StorageClassName
    title: Annotated[str, Field(min_length=1, max_length=60)]
    each: Annotated[
        Literal["person", "allocation"], Field(description="Whether each member has an area, or they have one together")
    ]
    limits_gb: Annotated[dict[str, PositiveInt], Field(description="By tier, in 10^9 bytes; a tier left out has none")]
    keeps_atime: Annotated[
        bool, Field(description="Whether reading a file is noted by the mount: not with noatime, NFS caches or EFS")
    ] = False

    def limit_bytes(self, tier: str) -> int | None:
        """Return the limit of an area of a tier in bytes, None where the tier has no such area."""
        gb = self.limits_gb.get(tier)
        return None if gb is None else gb * BYTES_PER_GB


class Thresholds(StorageModel):
    """When an area is nearing its limit, over it, and locked (no new servers but the rescue start)."""

    nearing_percent: Annotated[int, Field(gt=0, lt=100)]
    hard_percent: Annotated[int, Field(ge=100, description="Where writing fails, for file systems that can")]
    locked_after_days: Annotated[PositiveInt, Field(description="Days over the limit")]


class SizeClass(StorageModel):
    """Files by size: from so many bytes up to the next class."""

    name: Name
    from_bytes: NonNegativeInt


class PurgeRule(StorageModel):
    """Which files are purged at which age; without `paths` all, without `tiers` or `sizes` those of all.

    Age counts from the latest of mtime, atime (where the class keeps it) and the day on which we first saw the file.
    """

    name: Name
    storage: StorageClassName
    tiers: tuple[str, ...] = ()
    states: Annotated[tuple[StateName, ...], Field(min_length=1)] = ("active", "expiring", "grace")
    paths: Annotated[tuple[PathPattern, ...], Field(min_length=1)] = ("**",)
    not_paths: tuple[PathPattern, ...] = ()
    sizes: tuple[Name, ...] = ()
    age_days: PositiveInt
    longest_days: Annotated[
        PositiveInt | None, Field(description="Up to which age a lead may extend it; null: not at all")
    ] = None
    before: Annotated[tuple[Name, ...], Field(description="Later rules of which it takes some files")] = ()

    @model_validator(mode="after")
    def _extended_is_longer(self) -> PurgeRule:
        if self.longest_days is not None and self.longest_days <= self.age_days:
            raise ValueError("longest_days must be more than age_days")
        return self

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """What a file must match, one of them."""
        return tuple(parse(text) for text in self.paths)

    @property
    def not_patterns(self) -> tuple[Pattern, ...]:
        """What it must not match."""
        return tuple(parse(text) for text in self.not_paths)

    def age_for(self, extended_days: int | None) -> int:
        """Return the age in days where a lead has extended it, never beyond the longest and never shorter."""
        if extended_days is None or self.longest_days is None:
            return self.age_days
        return max(self.age_days, min(extended_days, self.longest_days))


class KeptFolders(StorageModel):
    """Folders that tools need, which no rule touches."""

    classes: Annotated[tuple[StorageClassName, ...], Field(min_length=1)]
    folders: Annotated[tuple[FolderPattern, ...], Field(min_length=1)]
    why: Annotated[str, Field(min_length=1, max_length=200)]


class Ceiling(StorageModel):
    """What one run may delete without a person who confirms it."""

    files: PositiveInt
    gb: PositiveInt


class PurgeTimes(StorageModel):
    """How a run goes: how long owners have to object, when they are told again, how much it may do at once."""

    window_days: PositiveInt
    reminders_days: Annotated[tuple[PositiveInt, ...], Field(description="Days before the window's end, falling")]
    ceiling: Ceiling
    entries_per_second: Annotated[PositiveInt | None, Field(description="Of a scan; null: as fast as it goes")] = None
    files_deleted_per_second: PositiveInt | None = None
    exempt_days_max: Annotated[PositiveInt, Field(description="How long an exemption may be granted for")] = 180

    @model_validator(mode="after")
    def _reminders_fall_within_the_window(self) -> PurgeTimes:
        if list(self.reminders_days) != sorted(set(self.reminders_days), reverse=True):
            raise ValueError("reminders_days must fall from one to the next")
        if self.reminders_days and self.reminders_days[0] >= self.window_days:
            raise ValueError("reminders_days must be less than window_days")
        return self


class EndTimes(StorageModel):
    """What becomes of areas whose owner has no allocation any more that goes on: nothing new is written from then on,
    and some days later the whole area is archived and removed."""

    archive_after_days: PositiveInt
    reminders_days: Annotated[tuple[PositiveInt, ...], Field(min_length=1, description="Days before that, falling")]
    room_mb: Annotated[PositiveInt, Field(description="What may be written after the end, in 10^6 bytes")]
    again_days: Annotated[PositiveInt, Field(description="Days until what was left is archived in turn")]

    @model_validator(mode="after")
    def _reminders_fall_within(self) -> EndTimes:
        if list(self.reminders_days) != sorted(set(self.reminders_days), reverse=True):
            raise ValueError("reminders_days must fall from one to the next")
        if self.reminders_days[0] >= self.archive_after_days:
            raise ValueError("reminders_days must be less than archive_after_days")
        return self

    @property
    def room_bytes(self) -> int:
        """What may be written after the end, in bytes."""
        return self.room_mb * BYTES_PER_MB


class ArchiveTimes(StorageModel):
    """How long archives are kept: of purged files, and of areas whose allocation has ended; who is told when."""

    purged_days: PositiveInt
    ended_days: PositiveInt
    reminders_days: tuple[PositiveInt, ...]

    @model_validator(mode="after")
    def _reminders_fall(self) -> ArchiveTimes:
        if list(self.reminders_days) != sorted(set(self.reminders_days), reverse=True):
            raise ValueError("reminders_days must fall from one to the next")
        return self


class StoragePolicy(StorageModel):
    """Everything about storage. The first rule that applies to a file decides on it."""

    classes: Annotated[tuple[StorageClass, ...], Field(min_length=1)]
    thresholds: Thresholds
    size_classes: tuple[SizeClass, ...] = ()
    kept: tuple[KeptFolders, ...] = ()
    rules: tuple[PurgeRule, ...] = ()
    purge: PurgeTimes
    ended: EndTimes
    archives: ArchiveTimes

    @model_validator(mode="after")
    def _the_end_leaves_time_for_the_window(self) -> StoragePolicy:
        if self.purge.window_days > self.ended.reminders_days[-1]:
            raise ValueError("ended: the last of reminders_days must not be less than purge: window_days")
        return self

    @model_validator(mode="after")
    def _names_stand_for_something(self) -> StoragePolicy:
        named: tuple[tuple[str, list[str]], ...] = (
            ("classes", [one.name for one in self.classes]),
            ("size_classes", [one.name for one in self.size_classes]),
            ("rules", [one.name for one in self.rules]),
        )
        for what, names in named:
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{what}: the name {name!r} stands more than once")
        return self

    @model_validator(mode="after")
    def _size_classes_rise(self) -> StoragePolicy:
        bounds = [one.from_bytes for one in self.size_classes]
        if bounds and (bounds[0] != 0 or bounds != sorted(set(bounds))):
            raise ValueError("size_classes: from_bytes must begin with 0 and rise from one to the next")
        return self

    @model_validator(mode="after")
    def _what_is_named_is_there(self) -> StoragePolicy:
        classes = {one.name for one in self.classes}
        sizes = {one.name for one in self.size_classes}
        for kept in self.kept:
            _require("kept", "class", kept.classes, classes)
        for number, rule in enumerate(self.rules):
            where = f"rules: {rule.name}"
            _require(where, "class", (rule.storage,), classes)
            _require(where, "size class", rule.sizes, sizes)
            _require(f"{where}: before", "later rule", rule.before, {one.name for one in self.rules[number + 1 :]})
        return self

    def storage_class(self, name: str) -> StorageClass:
        """Return the class; KeyError when the policy has none of that name."""
        for one in self.classes:
            if one.name == name:
                return one
        raise KeyError(name)

    def size_class(self, size_bytes: int) -> str | None:
        """Return the name of the class that a file's apparent size belongs to; None where there are no classes."""
        names = [one.name for one in self.size_classes if one.from_bytes <= size_bytes]
        return names[-1] if names else None

    def kept_patterns(self, storage: str) -> tuple[Pattern, ...]:
        """Return the folders of a class that no rule touches."""
        return tuple(parse(text) for kept in self.kept if storage in kept.classes for text in kept.folders)

    def rules_for(self, storage: str, tier: str, state: str) -> tuple[PurgeRule, ...]:
        """Return the rules that hold for an area of a class, tier and state of its allocation, in their order."""
        return tuple(
            rule
            for rule in self.rules
            if rule.storage == storage and (not rule.tiers or tier in rule.tiers) and state in rule.states
        )


def _require(where: str, what: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: there is no {what} {name!r}")
