"""Purges: what the rules let go, whose and why, taken in steps that can be gone on with."""
