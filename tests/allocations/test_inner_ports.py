"""The ports that a platform on one machine chooses for its own processes."""

from __future__ import annotations

from allocations.up import _free_ports


def test_no_port_is_chosen_twice():
    ports = _free_ports(500)
    assert len(set(ports)) == 500
