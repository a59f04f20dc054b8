"""What the cluster does while a server starts, in words for people."""

from __future__ import annotations

import asyncio

from kubespawner import KubeSpawner

from hub.spawner.kube import KubeAllocationSpawner, what_goes_on

CPU, MEMORY = "The configuration asks for cpu 16; …", "The configuration asks for memory 64Gi; …"


def test_a_home_that_is_still_to_be_made_is_not_said_to_be_a_machine_without_room():
    event = {"reason": "FailedScheduling", "message": "0/1 nodes are available: 1 Insufficient cpu."}
    assert "machine" in (what_goes_on(event) or "")
    event["message"] = "0/1 nodes are available: 1 pod has unbound immediate PersistentVolumeClaims."
    assert "home" in (what_goes_on(event) or "")
    assert what_goes_on({"reason": "Unheard", "message": ""}) is None


def test_what_the_lease_does_not_pay_for_is_told_once_though_the_cluster_tells_nothing_afterwards(monkeypatch):
    monkeypatch.setattr("kubespawner.spawner.load_config", lambda **_: None)
    monkeypatch.setattr("kubespawner.spawner.shared_client", lambda *_: None)
    spawner = KubeAllocationSpawner(_mock=True)

    async def of_the_cluster(_spawner):
        spawner._note((CPU,))
        yield {"progress": 10, "message": "Asking"}
        spawner._note((CPU, MEMORY))

    monkeypatch.setattr(KubeSpawner, "progress", of_the_cluster)

    async def told():
        return [event["message"] async for event in spawner.progress()]

    assert asyncio.run(told())[1:] == [CPU, "Asking", MEMORY]
