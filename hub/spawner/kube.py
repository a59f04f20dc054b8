"""Servers as pods: KubeSpawner within leases, charged by the times that the API server shows."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jupyterhub.utils import maybe_future
from kubernetes_asyncio.client import ApiException
from traitlets import Dict, Float, List, Unicode, default

from hub.spawner.choice import FIELDS, from_form
from hub.spawner.manifests import (
    HUB,
    NVIDIA_GPU,
    PATH_VARIABLES,
    Mount,
    PodTerms,
    beyond_lease,
    bind_claim,
    bind_pod,
    label_value,
    pod_start,
    quantities_of,
)
from hub.spawner.mixin import AllocationSpawnerMixin, render_options_form
from hub.spawner.pages import refusal
from hub.spawner.pods import NO_ANSWER, LeasePodReflector, ObservedKubeSpawner, lease_of
from hub.spawner.rescue import POD_FOLDER, POD_TMP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from jupyterhub.spawner import SpawnException
    from kubernetes_asyncio.client.models import V1PersistentVolumeClaim, V1Pod

    from hub.client import Lease

FORBIDDEN = 403
# Events by which the cluster says that a pod's end has begun; it keeps them for an hour.
END_EVENTS = frozenset({"Killing", "Evicted", "Preempted", "Preempting", "TaintManagerEviction", "NodeNotReady"})
# What goes on, in words for people, by the reason of the cluster's event.
WHAT_GOES_ON = {
    "Scheduled": "A machine has room for the server",
    "FailedScheduling": "Waiting for a machine with room; nothing is charged meanwhile",
    "TriggeredScaleUp": "A new machine is on its way, which takes some minutes; nothing is charged meanwhile",
    "NotTriggerScaleUp": "Waiting for room on the machines there are; nothing is charged meanwhile",
    "SuccessfulAttachVolume": "The home is attached",
    "FailedMount": "The home can't be mounted yet; nothing is charged meanwhile",
    "Pulling": "Fetching the image; nothing is charged meanwhile",
    "Pulled": "The image is there",
    "Created": "The server is made",
    "Started": "The server begins to run, and is charged from now on",
    "Failed": "It does not start yet; nothing is charged meanwhile",
    "BackOff": "It is tried again in a while",
    "Killing": "The server is stopped",
    "Evicted": "The machine has put the server out",
}
NO_HOME_YET = "Waiting for the home to be made; nothing is charged meanwhile"
# Set while KubeSpawner clears an older pod of the same name out of the way, in its own task only: that stop is not
# the stop of the server that is being started.
_making_room: ContextVar[bool] = ContextVar("making_room", default=False)


class KubeAllocationSpawner(AllocationSpawnerMixin, ObservedKubeSpawner):
    """Starts a pod within a lease. All options of KubeSpawner apply; where they ask for more, the lease wins.

    A profile is applied before the lease is asked for and gives what costs nothing: images, environment, volumes.
    """

    home_path = Unicode(
        "/home/jovyan",
        config=True,
        help="""Where a server sees its person's home, when `storage_pvc_ensure` is set.

        Not used where `volumes` has the claim already.
        """,
    )

    home_source = Dict(
        config=True,
        help="""A volume's source for everybody's homes, as in `{"persistentVolumeClaim": {"claimName": "homes"}}`.

        Each person sees a folder of their own in it, by their name or, where that is no label of Kubernetes, a hash
        of it. Empty: homes are as `storage_pvc_ensure` or `volumes` say.
        """,
    )

    scratch_source = Dict(
        config=True,
        help="""A volume's source for scratch space, as in `{"emptyDir": {"sizeLimit": "100Gi"}}`; empty for none.

        Of a claim that all share, each allocation sees a folder of its own.
        """,
    )

    scratch_path = Unicode(
        "/scratch", config=True, help="Where a server sees scratch space; also its MERIDIAN_SCRATCH."
    )

    shared_source = Dict(
        config=True,
        help="""A volume's source for what the members of an allocation share; empty for none.

        Each allocation has a folder of its own in it; only tiers in `shared_tiers` have one.
        """,
    )

    shared_path = Unicode(
        "/shared", config=True, help="Where a server sees what its allocation shares; also its MERIDIAN_SHARED."
    )

    shared_tiers = List(Unicode(), ["consortium"], config=True, help="Tiers whose allocations share a volume.")

    gpu_resource = Unicode(NVIDIA_GPU, config=True, help="The extended resource by which GPUs are asked for.")

    gpu_nodes = Dict(
        config=True,
        help="""For each type of GPU in the policy, the labels of the nodes that have it.

        Default: `{"meridian/gpu-type": type}`. Elsewhere as in
        `{"t4": {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}}`.
        """,
    )

    tier_priority_classes = Dict(
        config=True,
        help="""The PriorityClass of each tier's pods, by the tier's name.

        Tiers that are not in it have `priority_class_name`.
        """,
    )

    unpriced_resources = List(
        Unicode(),
        config=True,
        help="""Extended resources that profiles and hooks may give without a lease that pays for them.

        All others are taken from the pod, so that no start bypasses what GPUs cost.
        """,
    )

    hub_id = Unicode(
        config=True,
        help="""Tells the pods of this hub from those of others in the same namespaces; a label's value.

        Only pods that carry it are stopped for want of a lease. Default: of the hub's namespace and the URL of
        its allocations service. When it changes, pods that were there before are left to their deadlines.
        """,
    )

    reconcile_seconds = Float(
        10.0,
        config=True,
        help="""How often, in seconds, pods are compared with leases; nothing is done but on the second look.

        Less than the policy's `reconcile_seconds`, so that the charge of a server that the hub has lost goes by
        the end of its pod and not by when the worker last saw the server.
        """,
    )

    _lease: Lease | None = None
    _options_loaded = False
    _image_by_profile = False
    _unobserved_end: datetime | None = None
    _beyond: tuple[str, ...] = ()

    @default("pvc_name_template")
    def _default_pvc_name_template(self) -> str:
        # A home is its person's, whatever the server's name.
        return "claim-{username}"

    @default("hub_id")
    def _default_hub_id(self) -> str:
        return label_value(f"{self._namespace_default()}/{self.allocations_url}")

    @default("options_form")
    def _default_options_form(self) -> Any:
        return _render_forms

    @default("options_from_form")
    def _default_options_from_form(self) -> Any:
        return self._from_forms

    def _from_forms(self, form: dict[str, list[str]]) -> dict[str, str]:
        of_profiles = {name: values for name, values in form.items() if name.startswith("profile")}
        options: dict[str, str] = self._options_from_form(of_profiles) if of_profiles else {}
        return options | from_form(form)

    async def choice_options(self) -> object:
        """Apply the profile, and return what of the options is a choice; without profiles, all are."""
        if not isinstance(self.user_options, dict):
            return self.user_options
        image = self.image
        try:
            await super().load_user_options()
            profile = await self._profile()
        except (ValueError, KeyError) as error:
            raise refusal(f"The profile can't be had: {error}", code="invalid_profile", status=400) from error
        self._options_loaded = True
        self._image_by_profile = self.image != image
        if profile is None:
            return self.user_options
        of_profile = set(profile.get("profile_options", {}))
        return {name: value for name, value in self.user_options.items() if name in FIELDS and name not in of_profile}

    async def load_user_options(self) -> None:
        """Apply the profile once for each start: when KubeSpawner's start asks for it, the lease is already applied."""
        if not self._options_loaded:
            await super().load_user_options()

    def apply_lease(self, lease: Lease) -> None:
        """Give the pod what the lease pays for, whatever the profile has asked for."""
        free = frozenset(self.unpriced_resources)
        paid = quantities_of(lease.resources, self.gpu_resource)
        asked = {**self.extra_resource_guarantees, **self.extra_resource_limits}
        asked |= {"cpu": self.cpu_limit or self.cpu_guarantee, "memory": self.mem_limit or self.mem_guarantee}
        self._note(beyond_lease(asked, paid, free))
        super().apply_lease(lease)
        extended = {name: amount for name, amount in paid.items() if name not in {"cpu", "memory"}}
        for trait in ("extra_resource_limits", "extra_resource_guarantees"):
            kept = {name: amount for name, amount in getattr(self, trait).items() if name in free}
            setattr(self, trait, kept | extended)
        if lease.image_reference and not self._image_by_profile:
            self.image = lease.image_reference
        self._lease = lease

    def rescue_folders(self) -> tuple[str, str]:
        """Both on the volume that the pod of a rescue server has on /tmp."""
        return POD_FOLDER, POD_TMP

    def reported_start(self) -> datetime | None:
        """When the container first ran, as the API server shows it; None before."""
        pod = self.watched_pod
        return pod_start(pod) if pod and self._record and lease_of(pod) == self._record.lease_id else None

    def reported_end(self) -> datetime | None:
        """When the container ended, as the API server showed it; else when the pod was seen to be over."""
        lease_id = self._record.lease_id if self._record else None
        return LeasePodReflector.ends.end_of(lease_id or "") or self._unobserved_end

    def start(self) -> Any:
        """Begin to start a pod within a lease at once, as KubeSpawner does; returns the future with its address."""
        return asyncio.ensure_future(self._start_in_cluster())

    async def _start_in_cluster(self) -> Any:
        """Start a pod within a lease; a quota of the cluster is a refusal, not a failure."""
        self._options_loaded, self._unobserved_end, self._beyond = False, None, ()
        try:
            return await super().start()
        except ApiException as error:
            if error.status == FORBIDDEN and "exceeded quota" in str(error.body):
                raise _quota_reached() from error
            raise
        finally:
            self._options_loaded = False

    async def stop(self, now: bool = False) -> None:
        """Stop the pod and settle its lease; or only make room for the pod that is being started."""
        pod = self.watched_pod
        # What has not begun to run has nothing to finish, and a kubelet may take a minute to see that.
        now = now or (pod is not None and pod_start(pod) is None)
        if _making_room.get():
            await super(AllocationSpawnerMixin, self).stop(now=now)
        else:
            await super().stop(now=now)

    async def note_unobserved_end(self) -> None:
        """Find when a pod ended that nobody watched: by the cluster's events, or when its server last showed activity.

        Both lie within its life, so that it is never charged for more than it ran.
        """
        record = self._record
        if record is None or record.process_started_at is None:
            return
        activity = self.orm_spawner.last_activity if self.orm_spawner else None
        known = [activity.replace(tzinfo=UTC)] if activity else []
        try:
            events = await self.read_pod_events()
        except NO_ANSWER as error:
            self.log.warning("The events of pod %s can't be read: %s", self.pod_name, error)
        else:
            times = [event.last_timestamp or event.event_time for event in events if event.reason in END_EVENTS]
            known = [time for time in times if time and time >= record.process_started_at] or known
        self._unobserved_end = max([record.process_started_at, *known])

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Say who pays for what, where the lease gave less than was asked for, and what the cluster is doing."""
        said: set[str] = set()

        def unsaid() -> list[dict[str, Any]]:
            fresh = [sentence for sentence in dict.fromkeys(self._beyond) if sentence not in said]
            said.update(fresh)
            return [{"progress": 35, "message": sentence} for sentence in fresh]

        async for event in super().progress():
            for told in unsaid():
                yield told
            raw = event.get("raw_event")
            words = what_goes_on(raw) if raw else None
            yield event | {"message": f"{words} ({raw['message']})"} if raw and words else event
        # The cluster may have told nothing since the pod was made.
        for told in unsaid():
            yield told

    def get_env(self) -> dict[str, Any]:
        """The environment with the lease's names; without a paid GPU none is visible, whatever the image says."""
        env: dict[str, Any] = super().get_env()
        if self._lease is not None and not self._lease.resources.gpus:
            env.setdefault("NVIDIA_VISIBLE_DEVICES", "void")
        paths = {mount.name: mount.path for mount in self._mounts(self._lease)} if self._lease else {}
        return env | {variable: paths[name] for name, variable in PATH_VARIABLES.items() if name in paths}

    async def _make_create_pvc_request(self, pvc: V1PersistentVolumeClaim, request_timeout: float) -> bool:
        """KubeSpawner's last step for the claim of a home, which gets its person's name here."""
        created: bool = await super()._make_create_pvc_request(bind_claim(pvc, self.user.name), request_timeout)
        return created

    async def _make_create_pod_request(self, pod: V1Pod, request_timeout: float) -> bool:
        """KubeSpawner's last step, after profiles, options and hooks: here the lease has the last word."""
        assert self._lease is not None  # nothing starts without one
        bound, beyond = bind_pod(pod, self._terms(self._lease))
        self._note(beyond)
        bound.metadata.labels[HUB] = self.hub_id
        token = _making_room.set(True)
        try:
            created: bool = await super()._make_create_pod_request(bound, request_timeout)
        finally:
            _making_room.reset(token)
        return created

    def _terms(self, lease: Lease) -> PodTerms:
        return PodTerms(
            lease=lease,
            mounts=tuple(self._mounts(lease)),
            gpu_resource=self.gpu_resource,
            gpu_nodes=self.gpu_nodes,
            priority_class=self.tier_priority_classes.get(lease.tier, ""),
            unpriced_resources=frozenset(self.unpriced_resources),
        )

    def _mounts(self, lease: Lease) -> list[Mount]:
        mounts = []
        if self.home_source:
            mounts.append(Mount("home", self.home_source, self.home_path).part(label_value(lease.person)))
        elif self.storage_pvc_ensure:
            mounts.append(Mount("home", {"persistentVolumeClaim": {"claimName": self.pvc_name}}, self.home_path))
        if self.scratch_source:
            mount = Mount("scratch", self.scratch_source, self.scratch_path)
            mounts.append(mount.part(label_value(lease.allocation)) if mount.claim else mount)
        if self.shared_source and lease.tier in self.shared_tiers:
            mounts.append(Mount("shared", self.shared_source, self.shared_path).part(label_value(lease.allocation)))
        return mounts

    def _note(self, sentences: tuple[str, ...]) -> None:
        for sentence in sentences:
            self.log.warning("%s: %s", self._log_name, sentence)
        self._beyond += sentences

    async def _profiles(self) -> list[dict[str, Any]]:
        profiles = self._sorted_dict_values(self.profile_list)
        if callable(profiles):
            profiles = await maybe_future(profiles(self))
        initialized: list[dict[str, Any]] = self._get_initialized_profile_list(profiles)
        return initialized

    async def _profile(self) -> dict[str, Any] | None:
        profiles = await self._profiles()
        chosen: dict[str, Any] | None = None
        if profiles:
            chosen = self._get_profile(self.user_options.get("profile"), profiles)
        return chosen


async def _render_forms(spawner: KubeAllocationSpawner) -> str:
    form = await render_options_form(spawner)
    profiles = await spawner._profiles()  # noqa: SLF001 - JupyterHub takes a function of the spawner, not a method
    return form + spawner._render_options_form(profiles) if profiles else form  # noqa: SLF001 - KubeSpawner's own


def what_goes_on(event: Mapping[str, Any]) -> str | None:
    """An event of the cluster (as JSON) in words for people; None where it is not one that tells them anything."""
    if event["reason"] == "FailedScheduling" and "PersistentVolumeClaim" in event["message"]:
        return NO_HOME_YET
    return WHAT_GOES_ON.get(event["reason"])


def _quota_reached() -> SpawnException:
    return refusal(
        "The cluster has no room for this server within what it sets aside for people. Try a smaller size, "
        "or again later; nothing was charged.",
        code="cluster_quota",
        status=403,
    )
