"""What the cluster does while a server starts, in words for people."""

from __future__ import annotations

from hub.spawner.kube import what_goes_on


def test_a_home_that_is_still_to_be_made_is_not_said_to_be_a_machine_without_room():
    event = {"reason": "FailedScheduling", "message": "0/1 nodes are available: 1 Insufficient cpu."}
    assert "machine" in (what_goes_on(event) or "")
    event["message"] = "0/1 nodes are available: 1 pod has unbound immediate PersistentVolumeClaims."
    assert "home" in (what_goes_on(event) or "")
    assert what_goes_on({"reason": "Unheard", "message": ""}) is None
