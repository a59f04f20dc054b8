"""Which image a person asks for, and whether it may be started: pure rules, the same for offers and for admission.

An image is asked for, and recorded, as `base` (its recommended version), as `base:2026.11` (this very version) or,
where the tier allows, as a whole reference to a container image, which has a slash and so is taken for neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import (
    ImageEndedError,
    ImageNotAllowedError,
    InvalidImageReferenceError,
    UnknownImageError,
)
from allocations.policy.images import SEPARATOR
from allocations.policy.references import is_within, to_reference

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import date

    from allocations.policy.images import Image, ImageVersion
    from allocations.policy.models import Policy, Size, Tier

SOFTWARE_URL = "/services/allocations/software"
_OF_THE_CATALOGUE = re.compile(r"(?P<name>[a-z][a-z0-9-]{0,30})(?::(?P<tag>[A-Za-z0-9_.-]{1,128}))?", re.ASCII)
REFERENCE_EXAMPLE = "registry.example.org/team/lab:1.2"


@dataclass(frozen=True, slots=True)
class ChosenImage:
    """What is to be started; `image` is None for a container image of the person's own choice.

    `recorded` is how leases and runs name it for ever, and `reference` what Kubernetes pulls (None: the hub's own).
    """

    recorded: str
    reference: str | None
    title: str
    image: Image | None = None
    version: ImageVersion | None = None


def choose(policy: Policy, asked: str | None, size: Size) -> ChosenImage:
    """Find what is asked for, None for what the size starts by default.

    Raises UnknownImageError for what the catalogue does not have, InvalidImageReferenceError for a text that is no
    reference to a container image. Whether it may be started is `require_image`'s to say.
    """
    if asked is None:
        image = default_image(policy, size)
        return _of_catalogue(image, image.recommended)
    found = _OF_THE_CATALOGUE.fullmatch(asked)
    if found is None:
        try:
            reference = str(to_reference(asked))
        except ValueError as error:
            raise InvalidImageReferenceError(
                f"This is no image. {error}",
                f"Name an image of the catalogue, or a container image as a whole: {REFERENCE_EXAMPLE}.",
                SOFTWARE_URL,
            ) from None
        return ChosenImage(recorded=reference, reference=reference, title=reference)
    try:
        image = policy.image(found["name"])
    except KeyError:
        known = ", ".join(one.name for one in policy.images)
        raise UnknownImageError(
            f"There is no image {found['name']!r}.", f"Choose one of: {known}.", SOFTWARE_URL
        ) from None
    if found["tag"] is None:
        return _of_catalogue(image, image.recommended)
    try:
        return _of_catalogue(image, image.version(found["tag"]))
    except KeyError:
        raise UnknownImageError(
            f"{image.title} has no version {found['tag']!r}.", _instead(image, None), SOFTWARE_URL
        ) from None


def default_image(policy: Policy, size: Size) -> Image:
    """Return the image that a size starts when none is chosen."""
    return next((image for image in policy.images if _is_for(policy, image.default_for, size)), policy.default_image)


def may_start_with(policy: Policy, image: Image, size: Size) -> bool:
    """Say whether an image may be started with a size."""
    return image.sizes is None or _is_for(policy, image.sizes, size)


def require_image(
    policy: Policy, chosen: ChosenImage, tier: Tier, size: Size, today: date, *, runs_containers: bool
) -> None:
    """Raise ImageEndedError or ImageNotAllowedError when the image may not be started.

    `today` is the day of the choice (UTC): what was queued while a version could be started is not lost by its end.
    `runs_containers`: whether this installation runs container images at all.
    """
    if chosen.image is None:
        _require_custom(policy, chosen.recorded, tier, runs_containers=runs_containers)
        return
    image, version = chosen.image, chosen.version
    if image.tiers is not None and tier.name not in image.tiers:
        allowed = ", ".join(policy.tier(name).title for name in image.tiers)
        raise ImageNotAllowedError(
            f"{image.title} is not for the {tier.title} tier.",
            f"Choose another image, or an allocation of one of these tiers: {allowed}.",
            SOFTWARE_URL,
        )
    if not may_start_with(policy, image, size):
        allowed = ", ".join(policy.size(name).title for name in image.sizes or ())
        raise ImageNotAllowedError(
            f"{image.title} is not started with the size {size.title}.",
            f"Choose another image, or one of these sizes: {allowed}.",
            SOFTWARE_URL,
        )
    if version is not None and version.has_ended(today):
        raise ImageEndedError(
            f"{chosen.title} has ended: since {version.ends} it is not started any more.",
            _instead(image, today),
            SOFTWARE_URL,
        )


def offers_custom_images(policy: Policy, tier: Tier, *, runs_containers: bool) -> bool:
    """Say whether people may start container images of their own on allocations of a tier."""
    return runs_containers and tier.custom_images and policy.image_rules.custom is not None


def is_custom(recorded: str) -> bool:
    """Say whether a record is of a container image of a person's own choice."""
    return "/" in recorded


def reference_of(policy: Policy, recorded: str) -> str | None:
    """Return what Kubernetes pulls for an image as recorded; None where the catalogue has it no more."""
    if is_custom(recorded):
        return recorded
    name, separator, tag = recorded.partition(SEPARATOR)
    try:
        image = policy.image(name)
        version = image.version(tag) if separator else image.recommended
    except KeyError:
        return None
    return _of_catalogue(image, version).reference


def _of_catalogue(image: Image, version: ImageVersion | None) -> ChosenImage:
    title = image.title if version is None else f"{image.title} {version.tag}"
    reference = image.reference if version is None else version.reference
    return ChosenImage(image.recorded(version), reference, title, image, version)


def _is_for(policy: Policy, names: Collection[str], size: Size) -> bool:
    """Say whether a size is among those named; one that the policy does not have goes by its type of GPU."""
    if size.name in {one.name for one in policy.sizes}:
        return size.name in names
    return any(policy.size(name).gpu_type == size.gpu_type for name in names)


def _require_custom(policy: Policy, recorded: str, tier: Tier, *, runs_containers: bool) -> None:
    """Raise ImageNotAllowedError unless a container image of one's own may be started."""
    if not runs_containers:
        raise ImageNotAllowedError(
            "Servers and runs of this installation are no containers, so an image of your own cannot be started.",
            "Choose an image of the catalogue.",
            SOFTWARE_URL,
        )
    custom = policy.image_rules.custom
    if custom is None or not tier.custom_images:
        having = ", ".join(one.title for one in policy.tiers if custom and one.custom_images)
        raise ImageNotAllowedError(
            "Images of your own cannot be started here."
            if custom is None
            else f"The {tier.title} tier does not allow images of your own.",
            "Choose an image of the catalogue" + (f", or an allocation of the tier {having}." if having else "."),
            SOFTWARE_URL,
        )
    if not any(is_within(to_reference(recorded), place) for place in custom.registries):
        raise ImageNotAllowedError(
            "Images of your own may not come from this registry.",
            f"Put it where they may come from: {', '.join(custom.registries)}; or ask the administrators.",
            SOFTWARE_URL,
        )


def _instead(image: Image, today: date | None) -> str:
    """Say what to take instead: the recommended version, or another one that has not ended."""
    recommended = image.recommended
    there = [version for version in image.in_order() if today is None or not version.has_ended(today)]
    if not there:
        return "Choose another image." if recommended else f"Choose {image.name!r} without a version."
    first = there[0]
    is_recommended = ", which is recommended" if first is recommended else ""
    return f"Choose {image.recorded(first)}{is_recommended}."
