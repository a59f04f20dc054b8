"""What the published description shows as answers about images."""

from __future__ import annotations

from datetime import date

from allocations.leases.views import Catalogue, CustomImagesOffer, ImageOffer, VersionOffer
from allocations.policy.images import Channel

IMAGES = Catalogue(
    containers=True,
    images=[
        ImageOffer(
            name="base",
            title="Base",
            description="Astronomy with Python.",
            default=True,
            versions=[
                VersionOffer(
                    choice="base",
                    recorded="base:2027.01",
                    title="Base 2027.01",
                    tag="2027.01",
                    channel=Channel.RECOMMENDED,
                    released=date(2027, 1, 12),
                    ends=None,
                    ended=False,
                    ends_soon=False,
                    reference="registry.example.org/meridian-lab:2027.01",
                    changes=["astropy 8"],
                    packages={"astropy": "8.0.2"},
                )
            ],
        )
    ],
    custom=CustomImagesOffer(registries=["quay.io/jupyter"], tiers=["consortium"]),
)
