"""The observatory's policy: tiers, prices, sizes, images and the agreement, read from `policies/` and checked."""
