"""Shows images: the catalogue, and what of it a person may start. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocations.leases.images import may_start_with
from allocations.leases.views import Catalogue, CustomImagesOffer, ImageOffer, VersionOffer
from allocations.policy.images import Channel

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import date

    from allocations.policy.images import Image, ImageVersion
    from allocations.policy.models import Policy


def catalogue_of(policy: Policy, today: date, *, runs_containers: bool) -> Catalogue:
    """Show the whole catalogue, as it is on a day (UTC)."""
    return Catalogue(
        containers=runs_containers,
        images=[_to_offer(policy, image, today) for image in policy.images],
        custom=custom_images_of(policy, runs_containers=runs_containers),
    )


def startable_images(policy: Policy, today: date, wanted: Collection[tuple[str, str]]) -> list[ImageOffer]:
    """Return the images that may be started with at least one of the wanted tiers and sizes, without what has ended."""
    found = [
        _to_offer(policy, image, today)
        for image in policy.images
        if any(
            (image.tiers is None or tier in image.tiers) and may_start_with(policy, image, policy.size(size))
            for tier, size in wanted
        )
    ]
    left = [
        offer.model_copy(update={"versions": [version for version in offer.versions if not version.ended]})
        for offer in found
    ]
    return [offer for offer in left if offer.versions]


def custom_images_of(policy: Policy, *, runs_containers: bool) -> CustomImagesOffer | None:
    """Show what the policy says of images of one's own; None where nobody may start one."""
    custom, tiers = policy.image_rules.custom, [tier.name for tier in policy.tiers if tier.custom_images]
    if custom is None or not tiers or not runs_containers:
        return None
    return CustomImagesOffer(registries=list(custom.registries), tiers=tiers)


def _to_offer(policy: Policy, image: Image, today: date) -> ImageOffer:
    versions: list[ImageVersion | None] = [*image.in_order()] or [None]
    return ImageOffer(
        name=image.name,
        title=image.title,
        description=image.description,
        default=image.default,
        default_for=list(image.default_for),
        sizes=None if image.sizes is None else list(image.sizes),
        tiers=None if image.tiers is None else list(image.tiers),
        versions=[_to_version(policy, image, version, today) for version in versions],
    )


def _to_version(policy: Policy, image: Image, version: ImageVersion | None, today: date) -> VersionOffer:
    recorded = image.recorded(version)
    if version is None:
        return VersionOffer(
            choice=recorded,
            recorded=recorded,
            title=image.title,
            tag=None,
            channel=Channel.RECOMMENDED,
            released=None,
            ends=None,
            ended=False,
            ends_soon=False,
            reference=image.reference,
            changes=[],
            packages={},
        )
    return VersionOffer(
        choice=image.name if version.channel is Channel.RECOMMENDED else recorded,
        recorded=recorded,
        title=f"{image.title} {version.tag}",
        tag=version.tag,
        channel=version.channel,
        released=version.released,
        ends=version.ends,
        ended=version.has_ended(today),
        ends_soon=version.ends_within(today, policy.image_rules.warn_before_end_days),
        reference=version.reference,
        changes=list(version.changes),
        packages=dict(version.packages),
    )
