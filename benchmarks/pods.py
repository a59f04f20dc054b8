"""From asking for a server to its pod being ready, against plain KubeSpawner on the same cluster."""

from __future__ import annotations

import random
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from kubernetes import client, watch
from urllib3.exceptions import HTTPError

from benchmarks.fakes import fake_nodes
from benchmarks.kube import ClusterMissingError, Placing, kube_hub, kube_site, ledger_of
from benchmarks.pairs import paired_difference
from benchmarks.platforms import HubClient, until
from benchmarks.report import Comparison, Report, Section, Share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.kube import KubeHub, Ledger, Site
    from benchmarks.report import Step

PAIRS, PAIRS_QUICK = 30, 6
PERSON = "person-0000"
SETTLED_SECONDS = 60.0
GOAL_RATIO, GOAL_SECONDS = 1.05, 0.1
COMPARES = (
    "POST /hub/api/users/NAME/server until the server in its pod is ready: KubeAllocationSpawner with the allocations "
    "service on PostgreSQL, against KubeSpawner; a hub and a proxy each, the same cluster, image, node and resources."
)


@dataclass(frozen=True, slots=True)
class Start:
    """A start: until the API server has its pod, until all of that runs, until the hub says that it is ready; s."""

    to_pod: float
    to_running: float
    to_ready: float

    @property
    def total(self) -> float:
        """The seconds of the whole start."""
        return self.to_pod + self.to_running + self.to_ready

    @property
    def hubs(self) -> float:
        """The hub's part: all but what the cluster takes to run a pod that it has."""
        return self.to_pod + self.to_ready


SIDES = ("ours", "theirs")
PARTS: dict[str, Callable[[Start], float]] = {
    "request to ready": lambda start: start.total,
    "the hub's part of it": lambda start: start.hubs,
    "request to pod": lambda start: start.to_pod,
    "pod to running: the cluster's part": lambda start: start.to_running,
    "running to ready": lambda start: start.to_ready,
}


class PodTimes:
    """When the watch of a namespace showed the newest pod first, and when it showed it as running; perf_counter's s."""

    def __init__(self, site: Site, namespace: str) -> None:
        self._core = site.core
        self._namespace = namespace
        self._watch = watch.Watch()
        self._stopped = threading.Event()
        self._made: dict[str, float] = {}
        self._running: dict[str, float] = {}

    @contextmanager
    def looking(self) -> Iterator[PodTimes]:
        """Look in a thread of its own."""
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            self._watch.stop()

    def last(self) -> tuple[float, float]:
        """The times of the newest pod. Raises LookupError when it has not been seen to run."""
        uid, made = max(self._made.items(), key=lambda item: item[1])
        return made, self._running[uid]

    def _look(self) -> None:
        while not self._stopped.is_set():
            with suppress(HTTPError, client.ApiException):
                for event in self._watch.stream(self._core.list_namespaced_pod, self._namespace, timeout_seconds=600):
                    self._note(event["raw_object"], time.perf_counter())

    def _note(self, pod: dict[str, Any], now: float) -> None:
        uid, status = pod["metadata"]["uid"], pod.get("status") or {}
        self._made.setdefault(uid, now)
        states = status.get("containerStatuses") or []
        if states and all(state["ready"] for state in states):
            self._running.setdefault(uid, now)


@dataclass(frozen=True, slots=True)
class Side:
    """A hub with one person whose server is started again and again."""

    hub: KubeHub
    person: HubClient
    times: PodTimes

    def start(self) -> Start:
        """Start the server, and take it to pieces."""
        begin = time.perf_counter()
        total = self.person.start(self.hub.options)
        made, running = self.times.last()
        return Start(made - begin, running - made, begin + total - running)


@contextmanager
def _side(site: Site, ledger: Ledger | None, placing: Placing) -> Iterator[Side]:
    with ExitStack() as stack:
        hub = stack.enter_context(kube_hub(site, [PERSON], ledger, placing))
        person = stack.enter_context(closing(HubClient(hub.url, hub.token, PERSON)))
        yield Side(hub, person, stack.enter_context(PodTimes(site, hub.namespace).looking()))


def steps(*, quick: bool) -> int:
    """Return how many steps of the progress bar `run` makes."""
    return 1 + 2 * (1 + 2 * (1 + (PAIRS_QUICK if quick else PAIRS)))


def run(step: Step, *, quick: bool) -> Report:
    """Measure pairs of starts on a node, then on one that exists on paper: there nothing varies but the hub's part."""
    report = Report("pods", COMPARES, "plain KubeSpawner")
    step("preparing the cluster")
    try:
        with ExitStack() as stack:
            site = stack.enter_context(kube_site())
            ledger = stack.enter_context(ledger_of(site, [PERSON]))
            pairs = PAIRS_QUICK if quick else PAIRS
            _measure(report, "One server in a pod", site, ledger, Placing(), step, pairs)
            nodes = stack.enter_context(fake_nodes(1))
            placing = Placing(nodes.node_selector, nodes.tolerations, nodes.port)
            _measure(report, "One server on a node without a kubelet", site, ledger, placing, step, pairs)
            ledger.audit()
            report.notes.append(_goal(*(section.comparisons[0] for section in report.sections)))
            report.notes.append("The ledger audit is clean.")
    except ClusterMissingError as missing:
        report.notes.append(f"Left out. {missing}")
    return report


def _measure(report: Report, title: str, site: Site, ledger: Ledger, placing: Placing, step: Step, pairs: int) -> None:
    step("starting the hubs")
    with _side(site, ledger, placing) as ours, _side(site, None, placing) as theirs:
        starts, to_lease = _pairs(ours, theirs, ledger, step, pairs)
    section = Section(title)
    for what, part in PARTS.items():
        section.comparisons.append(Comparison(what, "s", *(list(map(part, starts[whose])) for whose in SIDES)))
    held_to_pod = [one.to_pod - held for one, held in zip(starts["ours"], to_lease, strict=True)]
    section.shares += [Share("request to held lease", "s", to_lease), Share("held lease to pod", "s", held_to_pod)]
    report.sections.append(section)
    report.notes += [f"{title}: {_difference(one)}" for one in section.comparisons[:2]]


def _goal(in_a_pod: Comparison, without_kubelet: Comparison) -> str:
    """Say whether a start costs as little more as it should."""
    ratio = median(in_a_pod.ours) / median(in_a_pod.theirs)
    more = [median(one.ours) - median(one.theirs) for one in (in_a_pod, without_kubelet)]
    met = "met" if ratio < GOAL_RATIO and max(more) < GOAL_SECONDS else "not met"
    return (
        f"The goal, less than {GOAL_RATIO - 1:.0%} and {GOAL_SECONDS * 1000:.0f} ms more, is {met}: the medians differ "
        f"by {ratio - 1:+.1%}, {more[0] * 1000:+.0f} ms in a pod, {more[1] * 1000:+.0f} ms without a kubelet."
    )


def _pairs(
    ours: Side, theirs: Side, ledger: Ledger, step: Step, pairs: int
) -> tuple[dict[str, list[Start]], list[float]]:
    """Start in pairs, in random order within each; the first only warms up. Returns also the seconds to our leases."""
    chance = random.Random(pairs)  # noqa: S311  # the same order in each run
    starts: dict[str, list[Start]] = {whose: [] for whose in SIDES}
    to_lease: list[float] = []
    for pair in range(1 + pairs):
        for whose in chance.sample(SIDES, 2):
            step("a server of ours" if whose == "ours" else "a server of the plain hub")
            side = ours if whose == "ours" else theirs
            asked = datetime.now(UTC)
            start = side.start()
            if pair > 0:
                starts[whose].append(start)
            if pair > 0 and whose == "ours":
                to_lease.append(_seconds_to_lease(ledger, asked))
            side.person.stop()
        until("The settled lease", lambda: _is_settled(ledger), SETTLED_SECONDS)
    return starts, to_lease


def _difference(one: Comparison) -> str:
    found = paired_difference(one.ours, one.theirs)
    return (
        f"Ours minus theirs, {one.what}, median of {len(one.ours)} pairs: {found.median * 1000:+.0f} ms, "
        f"{found.confidence:.1%} interval {found.low * 1000:+.0f} to {found.high * 1000:+.0f} ms."
    )


def _seconds_to_lease(ledger: Ledger, asked: datetime) -> float:
    lease = ledger.services.reports.leases_of(PERSON, 1)[0]
    return (datetime.fromisoformat(lease.acquired_at) - asked).total_seconds()


def _is_settled(ledger: Ledger) -> bool:
    return ledger.services.reports.leases_of(PERSON, 1)[0].state == "settled"
