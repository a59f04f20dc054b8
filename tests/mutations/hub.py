"""What the hub does about pods without leases, and the reverse."""

from tests.mutations.mutation import Mutation

RECONCILE = "hub/spawner/reconcile.py"
TESTS = ("tests/hub/test_reconcile.py",)

MUTATIONS = (
    Mutation(
        "leases are read before pods",
        RECONCILE,
        "        pods = self._ours(await self._spawner.watched_pods())\n"
        "        leases = await self._service.open_leases()\n",
        "        leases = await self._service.open_leases()\n"
        "        pods = self._ours(await self._spawner.watched_pods())\n",
        TESTS,
    ),
    Mutation(
        "the hub's database is read before pods",
        RECONCILE,
        "        pods = self._ours(await self._spawner.watched_pods())\n",
        "        known = self._known()\n        self._known = lambda: known\n"
        "        pods = self._ours(await self._spawner.watched_pods())\n",
        TESTS,
    ),
    Mutation(
        "one look is enough", RECONCILE, "now_seconds - since >= self._apart_seconds", "since <= now_seconds", TESTS
    ),
    Mutation(
        "what the watch has shown is believed",
        RECONCILE,
        "            pods = self._ours(await self._spawner.read_pods())\n",
        "",
        TESTS,
    ),
    Mutation("nothing is judged again", RECONCILE, "due & self._judge(pods, leases), pods", "due, pods", TESTS),
    Mutation(
        "a lease whose end is being reported counts as lost",
        RECONCILE,
        "served | known.leases | known.reporting",
        "served | known.leases",
        TESTS,
    ),
    Mutation(
        "an end that is being reported is reported again",
        RECONCILE,
        "leases.keys() - self._known().reporting",
        "leases.keys()",
        TESTS,
    ),
    Mutation(
        "a lease that is asked for counts as lost",
        RECONCILE,
        "        and (lease.person, lease.server_name) not in known.asking\n",
        "",
        TESTS,
    ),
    Mutation(
        "a start that is under way is stopped",
        RECONCILE,
        "lease_id in known.starting or (lease_id in known.leases and lease_id in open_leases)",
        "lease_id in known.leases and lease_id in open_leases",
        TESTS,
    ),
    Mutation("pods of other hubs are judged", RECONCILE, " == self._spawner.hub_id]", ' != ""]', TESTS),
)
