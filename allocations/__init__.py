"""The allocations service: tiers, budgets, leases, batch runs and the journal of every charge."""

from importlib.metadata import version

__version__ = version("meridian-platform")
