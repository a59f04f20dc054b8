"""The catalogue of images: each with its versions, what they are for and until when they can be started."""

from __future__ import annotations

from datetime import date, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from allocations.errors import PolicyError
from allocations.policy.references import REFERENCE_LENGTH_MAX, TAG, is_place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from allocations.policy.models import Policy

SEPARATOR = ":"  # between an image's name and a version's tag, in what people ask for and in records
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$", description="Lower-case name, stable for ever")]
Title = Annotated[str, Field(min_length=1, max_length=60)]
NonNegativeInt = Annotated[int, Field(ge=0)]
ContainerImage = Annotated[
    str | None,
    Field(
        pattern=rf"^[a-z0-9][A-Za-z0-9./:@_-]{{0,{REFERENCE_LENGTH_MAX - 1}}}$",
        description="The container image as Kubernetes pulls it; null: the one that the installation names",
    ),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Channel(StrEnum):
    """For whom a version is: everybody, who wants the newest, or who needs this very one."""

    RECOMMENDED = "recommended"
    WEEKLY = "weekly"
    PINNED = "pinned"


class ImageVersion(_Model):
    """A version of an image."""

    tag: Annotated[str, Field(pattern=rf"^{TAG}$", max_length=60, description="Also the container image's tag")]
    channel: Channel
    released: date
    ends: Annotated[date | None, Field(description="From this day on (UTC) it cannot be started anew")] = None
    reference: ContainerImage = None
    changes: Annotated[tuple[str, ...], Field(description="What changed since the version before, for people")] = ()
    packages: Annotated[
        dict[str, str], Field(default_factory=dict, description="The main packages, with their versions")
    ]

    @model_validator(mode="after")
    def _released_before_it_ends(self) -> ImageVersion:
        if self.ends is not None and self.ends <= self.released:
            raise ValueError(f"version {self.tag!r}: ends must come after released")
        return self

    def has_ended(self, today: date) -> bool:
        """Say whether it cannot be started anew any more."""
        return self.ends is not None and today >= self.ends

    def ends_within(self, today: date, days: int) -> bool:
        """Say whether it ends within so many days, or has ended."""
        return self.ends is not None and today + timedelta(days=days) >= self.ends


class Image(_Model):
    """An image of the catalogue. Without `versions` it has a single one, which does not end."""

    name: Name
    title: Title
    description: str = ""
    reference: ContainerImage = None
    default: bool = False
    sizes: Annotated[tuple[Name, ...] | None, Field(description="Sizes that it may be started with; null: all")] = None
    tiers: Annotated[tuple[Name, ...] | None, Field(description="Tiers that may start it; null: all")] = None
    default_for: Annotated[
        tuple[Name, ...], Field(description="Sizes that start it, rather than the default, when none is chosen")
    ] = ()
    versions: tuple[ImageVersion, ...] = ()

    @model_validator(mode="after")
    def _versions_fit_together(self) -> Image:
        if not self.versions:
            return self
        if self.reference is not None:
            raise ValueError(f"image {self.name!r}: give reference for each version, not beside versions")
        tags = [version.tag for version in self.versions]
        twice = sorted({tag for tag in tags if tags.count(tag) > 1})
        if twice:
            raise ValueError(f"image {self.name!r}: the version {twice[0]!r} stands more than once")
        recommended = [version.channel for version in self.versions].count(Channel.RECOMMENDED)
        if recommended != 1:
            raise ValueError(f"image {self.name!r}: exactly one version must be recommended, not {recommended}")
        return self

    @property
    def recommended(self) -> ImageVersion | None:
        """The version that is started when only the image is named; None where the image has no versions."""
        return next((version for version in self.versions if version.channel is Channel.RECOMMENDED), None)

    def version(self, tag: str) -> ImageVersion:
        """Return the version; KeyError when the image has none of that tag."""
        for version in self.versions:
            if version.tag == tag:
                return version
        raise KeyError(tag)

    def recorded(self, version: ImageVersion | None) -> str:
        """Return how records name a version of this image."""
        return self.name if version is None else f"{self.name}{SEPARATOR}{version.tag}"

    def in_order(self) -> list[ImageVersion]:
        """Return the versions as people read them: recommended, weekly, pinned, the newest of each first."""
        newest = sorted(self.versions, key=lambda version: version.released, reverse=True)
        return sorted(newest, key=lambda version: list(Channel).index(version.channel))


class CustomImages(_Model):
    """From where people of tiers with `custom_images` may start container images of their own choice."""

    registries: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="Registries, perhaps with parts of a path, of which * is any: ghcr.io/*/lab, quay.io/jupyter",
        ),
    ]

    @field_validator("registries")
    @classmethod
    def _registries_are_places(cls, registries: tuple[str, ...]) -> tuple[str, ...]:
        for place in registries:
            if not is_place(place):
                raise ValueError(f"{place!r} is not a registry, such as ghcr.io or registry.example.org/team")
        return registries


class ImageRules(_Model):
    """What holds for all images."""

    warn_before_end_days: Annotated[
        NonNegativeInt, Field(description="From when the start page warns of a version's end")
    ] = 30
    custom: CustomImages | None = None


def problems(images: Sequence[Image], sizes: Sequence[str], tiers: Sequence[str]) -> Iterator[str]:
    """Yield what does not fit together in a catalogue, beside what each image says of itself."""
    if [image.default for image in images].count(True) != 1:
        yield "images: exactly one must have default: true"
    for image in images:
        where = f"images: {image.name!r}"
        yield from (f"{where}: sizes: there is no size {one!r}" for one in image.sizes or () if one not in sizes)
        yield from (f"{where}: tiers: there is no tier {one!r}" for one in image.tiers or () if one not in tiers)
        yield from (f"{where}: default_for: there is no size {one!r}" for one in image.default_for if one not in sizes)
        if image.default and (image.sizes is not None or image.tiers is not None):
            yield f"{where}: the default image is for all sizes and tiers: leave sizes and tiers out"
    yield from _problems_of_defaults(images)


def _problems_of_defaults(images: Sequence[Image]) -> Iterator[str]:
    taken: dict[str, str] = {}
    for image in images:
        where = f"images: {image.name!r}: default_for"
        if image.default_for and image.tiers is not None:
            yield f"{where} goes with every tier: leave tiers out"
        for size in image.default_for:
            if image.sizes is not None and size not in image.sizes:
                yield f"{where}: {size!r} is not among its sizes"
            if size in taken:
                yield f"{where}: {size!r} starts {taken[size]!r} already"
            taken.setdefault(size, image.name)


def require_startable_recommendations(images: Sequence[Image], today: date) -> None:
    """Raise PolicyError where a recommended version has ended: the service still starts, but nobody the image."""
    found = [
        f"images.yaml: images: {image.name!r}: the recommended version {version.tag!r} has ended on {version.ends}"
        for image in images
        if (version := image.recommended) is not None and version.has_ended(today)
    ]
    if found:
        raise PolicyError("\n".join(found), "Recommend another version, or let this one end later.")


def with_references(policy: Policy, configured: Mapping[str, str], *, is_shipped: bool = False) -> Policy:
    """Fill in the container images that the policy leaves to the installation; leave out what then has none.

    `configured` has, by an image's name, where its container image is. A version takes its own tag in place of that
    one's, but for the recommended versions of the shipped policy (`is_shipped`), which know nothing of an installation
    that tags its images otherwise. The default image stays in any case: without a reference it is the hub's own.
    """
    images = []
    for image in policy.images:
        place = configured.get(image.name)
        versions = []
        for version in image.versions:
            is_recommended = version.channel is Channel.RECOMMENDED
            found = version.reference or (place if is_shipped and is_recommended else _tagged(place, version.tag))
            if found or (image.default and is_recommended):
                versions.append(version.model_copy(update={"reference": found}))
        reference = image.reference or (None if image.versions else place)
        filled = image.model_copy(update={"versions": tuple(versions), "reference": reference})
        if image.default or reference or filled.recommended:
            images.append(filled)
    return policy.model_copy(update={"images": tuple(images)})


def _tagged(place: str | None, tag: str) -> str | None:
    """Return a container image with another tag; a colon before the last slash is that of a port."""
    if place is None:
        return None
    path, slash, name = place.partition("@")[0].rpartition("/")
    return f"{path}{slash}{name.partition(':')[0]}:{tag}"
