"""How all tests choose their examples."""

from __future__ import annotations

from hypothesis import Phase, settings

# The same examples each time: what a change breaks shows with that change, and not with a later one. Others are looked
# for by `make explore`.
# Nor are lines noted as they run, to explain what fails: that takes longer than what most tests do.
PHASES = [phase for phase in Phase if phase is not Phase.explain]
settings.register_profile("same", derandomize=True, phases=PHASES)
settings.register_profile("explore", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("same")
