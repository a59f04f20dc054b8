"""What the policy files may say: pydantic models, immutable, unknown keys refused; their JSON Schema is published."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from allocations.clock import MS_PER_DAY
from allocations.policy.images import Image, ImageRules
from allocations.policy.images import problems as image_problems
from allocations.policy.mail import MailTemplates
from allocations.policy.notices import NoticeTexts
from allocations.policy.overlaps import problems as storage_problems
from allocations.policy.storage import StoragePolicy

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$", description="Lower-case name, stable for ever")]
Title = Annotated[str, Field(min_length=1, max_length=60)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
# The size of a server for freeing space in a home that is full or locked; no size of the policy has this name.
RESCUE = "rescue"


class PolicyModel(BaseModel):
    """The base of every policy model."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Shape(PolicyModel):
    """The largest server of a tier or award: a size fits when each of its resources fits."""

    cores: PositiveInt
    memory_gib: PositiveInt
    gpus: NonNegativeInt = 0


class Size(PolicyModel):
    """A size of server or run that people choose."""

    name: Name
    title: Title
    cores: PositiveInt
    memory_gib: PositiveInt
    gpus: NonNegativeInt = 0
    gpu_type: str | None = None

    @model_validator(mode="after")
    def _gpu_type_goes_with_gpus(self) -> Size:
        if (self.gpus > 0) != (self.gpu_type is not None):
            raise ValueError("gpus and gpu_type go together: give both or neither")
        return self

    def fits(self, shapes: tuple[Shape, ...]) -> bool:
        """Say whether at least one of the shapes holds this size."""
        return any(
            self.cores <= shape.cores and self.memory_gib <= shape.memory_gib and self.gpus <= shape.gpus
            for shape in shapes
        )

    def describe(self) -> str:
        """Say the size in words: `2 cores, 16 GiB`."""
        gpus = f", {self.gpus} {(self.gpu_type or '').upper()} GPU" if self.gpus else ""
        return f"{self.cores} core{'s' if self.cores > 1 else ''}, {self.memory_gib} GiB{gpus}"


class Refill(PolicyModel):
    """A daily addition to the budget, while what is available is below the cap."""

    credits_per_day: PositiveInt
    cap_credits: PositiveInt


class Budget(PolicyModel):
    """Credits of a tier, and the parts in which they are released."""

    credits: PositiveInt
    instalments: tuple[PositiveInt, ...]
    refill: Refill | None = None

    @model_validator(mode="after")
    def _instalments_make_the_budget(self) -> Budget:
        if sum(self.instalments) != self.credits:
            raise ValueError(f"instalments add up to {sum(self.instalments)}, not to credits ({self.credits})")
        return self


class AtOnce(PolicyModel):
    """What may run at the same time: servers for each person, cores and GPUs over the whole allocation."""

    servers_per_person: PositiveInt
    cores: PositiveInt
    gpus: NonNegativeInt


class Tier(PolicyModel):
    """A tier: who gets it, what it holds, how long it lasts."""

    name: Name
    title: Title
    summary: str
    review: Literal["none", "one", "panel"]
    panel_reviewers_min: Annotated[int, Field(ge=2)] = 2
    people_max: PositiveInt | None
    sub_allocations: bool
    overcommit_ratio_percent: Annotated[int, Field(ge=100)] = 100
    budget: Budget
    largest: Annotated[tuple[Shape, ...], Field(min_length=1)]
    at_once: AtOnce
    term_days: PositiveInt
    renewal_opens_days: NonNegativeInt
    reminders_days: Annotated[tuple[PositiveInt, ...], Field(description="Days before the end, falling")]
    grace_days: NonNegativeInt
    archive_after_days: PositiveInt
    close_after_days: Annotated[
        PositiveInt | None,
        Field(description="Days after the end; null: archived until the agreement is accepted again"),
    ]
    idle_seconds: PositiveInt
    longest_session_seconds: PositiveInt
    custom_images: Annotated[
        bool, Field(description="Whether people may start container images of their own, see image_rules.custom")
    ] = False

    @model_validator(mode="after")
    def _archived_before_it_is_closed(self) -> Tier:
        if self.close_after_days is not None and self.close_after_days <= self.archive_after_days:
            raise ValueError("close_after_days must be more than archive_after_days")
        return self

    @model_validator(mode="after")
    def _reminders_fall(self) -> Tier:
        if list(self.reminders_days) != sorted(set(self.reminders_days), reverse=True):
            raise ValueError("reminders_days must fall from one to the next")
        return self


class PriceList(PolicyModel):
    """Prices from a date of effect (UTC), in whole microcredits."""

    effective: datetime
    microcredits_per_core_second: NonNegativeInt
    microcredits_per_gib_second: NonNegativeInt
    microcredits_per_gpu_second: dict[str, NonNegativeInt] = {}
    microcredits_per_gb_day: Annotated[
        dict[Literal["home", "scratch", "shared", "object"], NonNegativeInt],
        Field(description="For 1,000,000,000 bytes kept for a day (UTC), by class; a class without costs nothing"),
    ] = {}

    @model_validator(mode="after")
    def _effective_has_a_zone(self) -> PriceList:
        if self.effective.tzinfo is None:
            raise ValueError("effective needs a time zone: write for example 2026-01-01T00:00:00Z")
        return self

    def microcredits_per_second(self, size: Size) -> int:
        """Price a size: microcredits for one second of it."""
        gpu = self.microcredits_per_gpu_second[size.gpu_type] * size.gpus if size.gpu_type else 0
        return self.microcredits_per_core_second * size.cores + self.microcredits_per_gib_second * size.memory_gib + gpu


class LeaseRules(PolicyModel):
    """How interactive servers hold ahead and are renewed."""

    quantum_seconds: PositiveInt
    renew_before_end_seconds: PositiveInt
    stop_grace_seconds: PositiveInt
    allocation_end_grace_seconds: NonNegativeInt
    reconcile_seconds: PositiveInt
    answers_kept_days: PositiveInt
    warn_before_stop_seconds: tuple[PositiveInt, ...] = (900, 300, 60)
    rescue_seconds: Annotated[PositiveInt, Field(description="How long a rescue server runs; it is not renewed")] = 3600

    @model_validator(mode="after")
    def _renewal_falls_within_the_quantum(self) -> LeaseRules:
        if self.renew_before_end_seconds >= self.quantum_seconds:
            raise ValueError("renew_before_end_seconds must be less than quantum_seconds")
        return self


class RunRules(PolicyModel):
    """Batch runs: their maximum time, how often the platform tries, and how often a person may have it try again."""

    default_max_seconds: PositiveInt
    longest_seconds: PositiveInt
    attempts: PositiveInt
    retries_max: NonNegativeInt
    notebook_max_bytes: PositiveInt
    interactive_reserve_percent: Annotated[
        int, Field(ge=0, le=90, description="What batch leaves for servers, of the cores that an allocation may run")
    ] = 10
    sweep_runs_max: Annotated[PositiveInt, Field(description="How many runs a sweep may have")] = 10_000
    schedules_max: Annotated[PositiveInt, Field(description="Schedules that one person may have")]
    schedule_refusals_max: Annotated[PositiveInt, Field(description="Refusals in a row that pause a schedule")]
    schedule_runs_max: Annotated[
        PositiveInt, Field(description="Runs of one schedule that may wait, and missed ones that are made up for")
    ]


class Agreement(PolicyModel):
    """The user agreement in force: Markdown, accepted once for each version and again after `valid_days`."""

    version: Annotated[str, Field(min_length=1, max_length=40)]
    title: Title
    valid_days: PositiveInt
    text: str

    def is_accepted(self, accepted_at_ms: int | None, now_ms: int) -> bool:
        """Say whether an acceptance of this version (None: there is none) still counts."""
        until_ms = self.accepted_until_ms(accepted_at_ms)
        return until_ms is not None and now_ms < until_ms

    def accepted_until_ms(self, accepted_at_ms: int | None) -> int | None:
        """Return until when an acceptance of this version counts; None without one."""
        return None if accepted_at_ms is None else accepted_at_ms + self.valid_days * MS_PER_DAY


class Policy(PolicyModel):
    """Everything the policy files say, checked as a whole."""

    tiers: Annotated[tuple[Tier, ...], Field(min_length=1)]
    sizes: Annotated[tuple[Size, ...], Field(min_length=1)]
    prices: Annotated[tuple[PriceList, ...], Field(min_length=1)]
    images: Annotated[tuple[Image, ...], Field(min_length=1)]
    image_rules: ImageRules = ImageRules()
    leases: LeaseRules
    runs: RunRules
    agreement: Agreement
    notices: NoticeTexts
    mail: MailTemplates
    storage: StoragePolicy
    version: Annotated[str, Field(description="Digest of the files, kept with every decision")] = ""

    @model_validator(mode="after")
    def _the_parts_fit_together(self) -> Policy:
        for what, names in (
            ("tiers", [tier.name for tier in self.tiers]),
            ("sizes", [size.name for size in self.sizes]),
            ("images", [image.name for image in self.images]),
        ):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"{what}: the name {sorted(twice)[0]!r} stands more than once")
        if [tier.review for tier in self.tiers].count("none") != 1:
            raise ValueError("tiers: exactly one must have review: none (the one that everybody gets)")
        if RESCUE in {size.name for size in self.sizes}:
            raise ValueError(f"sizes: {RESCUE!r} is the name of the server that frees space: choose another")
        for tier in self.tiers:
            if not any(size.fits(tier.largest) for size in self.sizes):
                raise ValueError(f"tiers: no size fits within largest of tier {tier.name!r}")
        return self

    @model_validator(mode="after")
    def _the_images_fit_together(self) -> Policy:
        tiers = [tier.name for tier in self.tiers]
        found = list(image_problems(self.images, [size.name for size in self.sizes], tiers))
        if found:
            raise ValueError("\n".join(found))
        return self

    @model_validator(mode="after")
    def _the_rules_of_storage_fit_together(self) -> Policy:
        problems = storage_problems(self.storage, [tier.name for tier in self.tiers])
        if problems:
            raise ValueError("\n".join(f"storage.yaml: {problem}" for problem in problems))
        return self

    @model_validator(mode="after")
    def _files_outlast_allocations(self) -> Policy:
        """As long as an allocation can be renewed, what it has must be there."""
        after_days = self.storage.ended.archive_after_days
        for tier in self.tiers:
            if tier.archive_after_days > after_days:
                raise ValueError(
                    f"storage.yaml: ended.archive_after_days: {after_days} days are fewer than tier {tier.name!r} "
                    f"can be renewed for ({tier.archive_after_days} days)"
                )
        return self

    @model_validator(mode="after")
    def _every_size_has_a_price(self) -> Policy:
        effective = [prices.effective for prices in self.prices]
        if effective != sorted(set(effective)):
            raise ValueError("prices: dates of effect must rise from one list to the next")
        for prices in self.prices:
            for size in self.sizes:
                if size.gpu_type and size.gpu_type not in prices.microcredits_per_gpu_second:
                    raise ValueError(
                        f"prices of {prices.effective:%Y-%m-%d}: no microcredits_per_gpu_second for "
                        f"{size.gpu_type!r}, which size {size.name!r} uses"
                    )
                if prices.microcredits_per_second(size) == 0:
                    raise ValueError(f"prices of {prices.effective:%Y-%m-%d}: size {size.name!r} costs nothing")
        for tier in self.tiers:
            if not any(size.fits(tier.largest) for size in self.sizes):
                raise ValueError(f"tiers: no size fits within largest of tier {tier.name!r}")
        return self

    def tier(self, name: str) -> Tier:
        """Return the tier; KeyError when the policy has none of that name."""
        return _named(self.tiers, name)

    def size(self, name: str) -> Size:
        """Return the size; KeyError when the policy has none of that name."""
        return _named(self.sizes, name)

    @property
    def rescue_size(self) -> Size:
        """What a rescue server gets: as much as the smallest size."""
        return self.sizes[0].model_copy(update={"name": RESCUE, "title": "Rescue"})

    def image(self, name: str) -> Image:
        """Return the image; KeyError when the policy has none of that name."""
        return _named(self.images, name)

    @property
    def entry_tier(self) -> Tier:
        """The tier that everybody gets with the agreement."""
        return next(tier for tier in self.tiers if tier.review == "none")

    @property
    def default_image(self) -> Image:
        """The image started when none is chosen."""
        return next(image for image in self.images if image.default)

    def prices_at(self, moment: datetime) -> PriceList:
        """Return the prices in force at a moment; ValueError before the first date of effect."""
        in_force = [prices for prices in self.prices if prices.effective <= moment]
        if not in_force:
            raise ValueError(f"no prices are in force on {moment:%Y-%m-%d}")
        return in_force[-1]


Named = TypeVar("Named", Tier, Size, Image)


def _named(items: tuple[Named, ...], name: str) -> Named:
    for item in items:
        if item.name == name:
            return item
    raise KeyError(name)
