"""Takes one lock or condition away at a time, in a copy of the tree, and sees whether the tests notice.

`make mutations`, or `python -m tests.mutations NAME…` for some. Each mutation is an exact edit and the tests that must
fail with it; one whose text is no longer in the code is reported as stale. Ends with status 1 when one survives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

REPOSITORY = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "node_modules", "state", "*_cache", "__pycache__", "images")
TESTS_FAILED = 1  # of pytest's exit codes
T = "tests/allocations/test_"
IN_FLIGHT = f"{T}in_flight.py"


@dataclass(frozen=True, slots=True)
class Mutation:
    """An edit of one file, and the tests (as pytest names them) of which one must fail with it.

    Tests that run on both databases run on SQLite alone, unless PostgreSQL is what shows the difference.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    on_postgresql: bool = False


MUTATIONS = (
    # ---------------------------------------------------------------- the ledger
    Mutation(
        "a hold ignores the limit",
        "allocations/ledger/service.py",
        "balances.c.limit_amount >= _USED_THEN))",
        "balances.c.limit_amount >= balances.c.limit_amount + 0 * _USED_THEN))",
        (f"{T}ledger.py",),
    ),
    Mutation(
        "admission reads balances without locking them",
        "allocations/ledger/service.py",
        "_LOCK_NODES = _NODES.with_for_update(of=balances)",
        "_LOCK_NODES = _NODES",
        (IN_FLIGHT,),
    ),
    Mutation(
        "Ledger.lock locks nothing",
        "allocations/ledger/service.py",
        """                .order_by(balances.c.unit)
                .with_for_update()
""",
        """                .order_by(balances.c.unit)
""",
        (IN_FLIGHT,),
    ),
    Mutation(
        "what is moved counts at the leaf alone",
        "allocations/ledger/service.py",
        "            for node in one.path:\n",
        "            for node in one.path[-1:]:\n",
        (f"{T}leases.py",),
    ),
    Mutation(
        "an account that is opened late begins at nothing",
        "allocations/ledger/service.py",
        "held, posted = used.get(Account.HELD, 0), used.get(Account.POSTED, 0)",
        "held, posted = used.get(Account.HELD, 0) * 0, 0",
        (f"{T}tree.py",),
    ),
    Mutation(
        "a limit changes without a journal entry",
        "allocations/ledger/service.py",
        "[_row(Movement(transaction, [allocation_id], unit, source, target, abs(amount)))]",
        "[_row(Movement(transaction, [allocation_id], unit, source, target, abs(amount)))][:0]",
        (f"{T}audit.py",),
    ),
    # ---------------------------------------------------------------- admission
    Mutation(
        "keys are looked up before the balances are locked",
        "allocations/leases/admission.py",
        """        view = self._look(connection, asked)
        # Looked up once the balances are locked: another process may have answered the same key until then.
        known = recall_all(connection, [one.key for one in asked if one.key])
""",
        """        known = recall_all(connection, [one.key for one in asked if one.key])
        view = self._look(connection, asked)
""",
        (IN_FLIGHT,),
    ),
    Mutation(
        "admission does not look at the balance",
        "allocations/leases/admission.py",
        "        self._require_balance(view, path, amounts)\n",
        "",
        (f"{T}admission.py",),
    ),
    Mutation(
        "what is admitted is not counted for the next of the batch",
        "allocations/leases/admission.py",
        "        on_tree[request.person] = own + taken\n",
        "",
        (f"{T}admission.py",),
    ),
    Mutation(
        "what is admitted is not counted on the tree for the next of the batch",
        "allocations/leases/admission.py",
        "        view.in_trees[allocation.root_id] = in_tree + taken\n",
        "",
        (f"{T}admission.py",),
    ),
    Mutation(
        "what is held is not counted for the next of the batch",
        "allocations/leases/admission.py",
        "view.balances[node.id, unit] = replace(balance, held=balance.held + amount)",
        "view.balances[node.id, unit] = replace(balance, held=balance.held)",
        (f"{T}admission.py",),
    ),
    Mutation(
        "a key that stands twice in a batch is decided twice",
        "allocations/leases/admission.py",
        "            known[one.key.name] = (one.key.request_hash, answer)\n",
        "",
        (f"{T}admission.py",),
    ),
    Mutation(
        "a key that is used for another request gets the old answer",
        "allocations/leases/admission.py",
        """            if request_hash != one.key.request_hash:
                raise reused()
""",
        "            assert request_hash\n",
        (f"{T}leases.py",),
    ),
    Mutation(
        "only the leaf must be usable",
        "allocations/leases/admission.py",
        "        for node in path:\n            require_usable",
        "        for node in path[-1:]:\n            require_usable",
        (f"{T}stopped.py",),
    ),
    Mutation(
        "a run may outlast its allocation",
        "allocations/leases/admission.py",
        "        if seconds * MS_PER_SECOND > left_ms:\n",
        "        if seconds * MS_PER_SECOND > left_ms * 1000:\n",
        (f"{T}runs.py",),
    ),
    Mutation(
        "a lost race for a key is not looked at again",
        "allocations/leases/queue.py",
        """        try:
            return self._once(asked)
        except IntegrityError:
            # Another process may have answered one of the keys meanwhile: look again.
            return self._once(asked)
""",
        """        assert IntegrityError
        return self._once(asked)
""",
        (IN_FLIGHT,),
    ),
    # ---------------------------------------------------------------- the rules of what runs
    Mutation(
        "one server more than allowed",
        "allocations/leases/rules.py",
        "own.servers + 1 > limits.servers_per_person",
        "own.servers > limits.servers_per_person",
        (f"{T}leases.py",),
    ),
    Mutation(
        "cores and GPUs at once are not limited over the tree",
        "allocations/leases/rules.py",
        "        if used + asked > most_of_tree:\n",
        "        if asked > most_of_tree:\n",
        (f"{T}admission.py",),
    ),
    Mutation(
        "a member's caps do not bind",
        "allocations/leases/rules.py",
        "        if most_of_member is not None and own_used + asked > most_of_member:\n",
        "        if most_of_member is not None and own_used > most_of_member:\n",
        (f"{T}admission.py",),
    ),
    Mutation(
        "a stopped ancestor lets leases be renewed",
        "allocations/leases/rules.py",
        "    if any(node.state not in RUNNING_STATES for node in path):\n",
        "    if any(node.state not in RUNNING_STATES for node in path[-1:]):\n",
        (f"{T}stopped.py",),
    ),
    Mutation(
        "an allocation is usable beyond its end until the calendar comes round",
        "allocations/leases/rules.py",
        " or now_ms >= allocation.ends_at_ms:",
        ":",
        (f"{T}stopped.py",),
    ),
    Mutation(
        "no grace after an allocation's end",
        "allocations/leases/rules.py",
        "    return min(node.ends_at_ms for node in path) + grace_seconds * MS_PER_SECOND\n",
        "    return min(node.ends_at_ms for node in path) + 0 * grace_seconds * MS_PER_SECOND\n",
        (f"{T}watch.py",),
    ),
    # ---------------------------------------------------------------- batching
    Mutation(
        "several threads work on one lane",
        "allocations/leases/batching.py",
        "            begin, lane.works = not lane.works, True\n",
        "            begin, lane.works = True, True\n",
        (f"{T}admission.py",),
    ),
    Mutation(
        "a batch that fails fails for all in it",
        "allocations/leases/batching.py",
        "            if len(batch) == 1:\n                batch[0].answer.set_exception(error)\n",
        "            if len(batch) > 0:\n                batch[0].answer.set_exception(error)\n",
        (f"{T}admission.py",),
    ),
    Mutation(
        "who went away is decided all the same",
        "allocations/leases/batching.py",
        "batch = [one for one in waiting if one.answer.set_running_or_notify_cancel()]",
        "batch = list(waiting)",
        (f"{T}admission.py",),
    ),
    # ---------------------------------------------------------------- the tree
    Mutation(
        "a division does not lock what it divides",
        "allocations/lifecycle/tree.py",
        "            self.ledger.lock(connection, [parent_id])\n",
        "",
        (IN_FLIGHT,),
    ),
    Mutation(
        "a change of a share locks nothing",
        "allocations/lifecycle/tree.py",
        "            self.ledger.lock(connection, [parent.id, child_id])\n",
        "",
        (IN_FLIGHT,),
    ),
    Mutation(
        "a move locks nothing",
        "allocations/lifecycle/tree.py",
        "            self.ledger.lock(connection, [parent.id, *sorted((source_id, target_id))])\n",
        "",
        (IN_FLIGHT,),
    ),
    Mutation(
        "a move locks the source before the target, whichever comes first",
        "allocations/lifecycle/tree.py",
        "[parent.id, *sorted((source_id, target_id))]",
        "[source_id, target_id]",
        (f"{T}tree.py::test_opposite_moves_at_the_same_time_take_turns",),
        on_postgresql=True,
    ),
    Mutation(
        "a closing does not lock what it closes",
        "allocations/lifecycle/tree.py",
        "            subtree = self.authority.lock_subtree(connection, child)\n",
        "            subtree = self.allocations.subtree(connection, child)\n",
        (IN_FLIGHT,),
    ),
    Mutation(
        "a closing keeps what is unused",
        "allocations/lifecycle/tree.py",
        "            if balance is not None and balance.available > 0:\n",
        "            if balance is not None and balance.available < 0:\n",
        (f"{T}tree.py",),
    ),
    Mutation(
        "guaranteed shares may exceed the whole",
        "allocations/lifecycle/tree.py",
        "        if shares.guaranteed and shares.guaranteed + shares.gone > limit:\n",
        "        if shares.guaranteed and shares.guaranteed > limit * 100:\n",
        (f"{T}tree.py",),
    ),
    Mutation(
        "what closed parts used may be promised again",
        "allocations/lifecycle/tree.py",
        "shares = replace(shares, gone=shares.gone + balance.posted + balance.held)",
        "shares = replace(shares, gone=shares.gone)",
        (f"{T}tree.py",),
    ),
    # ---------------------------------------------------------------- requests
    Mutation(
        "a request is decided on without its lock",
        "allocations/lifecycle/requests.py",
        "        return self._find(connection, request_id, lock=True)\n",
        "        return self._find(connection, request_id)\n",
        (IN_FLIGHT,),
    ),
    Mutation(
        "the same may be asked for twice at once",
        "allocations/lifecycle/requests.py",
        "        self.lifecycle.ledger.lock(connection, [allocation_id])\n",
        "",
        (IN_FLIGHT,),
    ),
    Mutation(
        "a decision in any state",
        "allocations/lifecycle/requests.py",
        "        if request.state not in REQUEST_TRANSITIONS[action].sources:\n",
        "        if request.state not in REQUEST_TRANSITIONS[action].sources and not action:\n",
        (f"{T}requests.py",),
    ),
    Mutation(
        "a panel of one reviewer less",
        "allocations/lifecycle/requests.py",
        "        if len(scores) < needed:\n",
        "        if len(scores) < needed - 1:\n",
        (f"{T}requests.py",),
    ),
    Mutation(
        "a declared conflict does not bar",
        "allocations/lifecycle/requests.py",
        "            review.conflict and review.reviewer == actor.name\n",
        "            review.conflict and review.reviewer == actor.name * 2\n",
        (f"{T}requests.py",),
    ),
    Mutation(
        "members review what is asked for on their allocation",
        "allocations/lifecycle/requests.py",
        "for member in self.allocations.members(connection, nodes)):",
        "for member in self.allocations.members(connection, nodes[:0])):",
        (f"{T}requests.py",),
    ),
    Mutation(
        "what is over may be asked for more",
        "allocations/lifecycle/requests.py",
        "        self.lifecycle.require_open_to(allocation, kind)\n",
        "",
        (f"{T}requests.py",),
    ),
    Mutation(
        "an instalment is granted to what is over",
        "allocations/lifecycle/allocations.py",
        "        self.require_open_to(allocation, RequestKind.INSTALMENT)\n",
        "",
        (f"{T}requests.py",),
    ),
    Mutation(
        "a supplement is granted to what is over",
        "allocations/lifecycle/allocations.py",
        "        self.require_open_to(allocation, RequestKind.SUPPLEMENT)\n",
        "",
        (f"{T}requests.py",),
    ),
    Mutation(
        "an extension is granted to what is over",
        "allocations/lifecycle/allocations.py",
        "        self.require_open_to(allocation, RequestKind.EXTENSION)\n",
        "",
        (f"{T}requests.py",),
    ),
    # ---------------------------------------------------------------- members
    Mutation(
        "an answer does not wait for a revocation",
        "allocations/lifecycle/members.py",
        "        self.ledger.lock(connection, [invitation.allocation_id])\n",
        "",
        (IN_FLIGHT,),
    ),
    Mutation(
        "two leads may leave at once",
        "allocations/lifecycle/members.py",
        "            subtree = self.authority.lock_subtree(connection, allocation)\n",
        "            subtree = self.allocations.subtree(connection, allocation)\n",
        (IN_FLIGHT,),
    ),
    Mutation(
        "places are counted without a lock",
        "allocations/lifecycle/members.py",
        """            self.ledger.lock(connection, [allocation_id])
            allocation = self._living(connection, allocation_id)
""",
        """            allocation = self._living(connection, allocation_id)
""",
        (IN_FLIGHT,),
    ),
    Mutation(
        "two leads may step down at once",
        "allocations/lifecycle/members.py",
        """            self.ledger.lock(connection, [allocation_id])
            member = self._member(connection, allocation_id, person)
""",
        """            member = self._member(connection, allocation_id, person)
""",
        (IN_FLIGHT,),
    ),
    Mutation(
        "the last lead may go",
        "allocations/lifecycle/members.py",
        "        if not any(member.role is MemberRole.LEAD for member in members if member.person != person):\n",
        "        if not any(member.role is MemberRole.LEAD for member in members):\n",
        (f"{T}members.py",),
    ),
    Mutation(
        "who is removed may come back by an older invitation",
        "allocations/lifecycle/members.py",
        "            self.invitations.revoke_all(connection, [node.id for node in subtree], now_ms, person)\n",
        "",
        (f"{T}members.py",),
    ),
    Mutation(
        "who leaves stays in the parts",
        "allocations/lifecycle/members.py",
        "            for node in subtree:\n",
        "            for node in subtree[:1]:\n",
        (f"{T}members.py",),
    ),
    # ---------------------------------------------------------------- keys
    Mutation(
        "a lost race for a key, room or balance is not looked at again",
        "allocations/db/idempotency.py",
        "        except (IntegrityError, AtOnceLimitError, InsufficientBalanceError):\n",
        "        except (AtOnceLimitError, InsufficientBalanceError):\n            assert IntegrityError\n",
        (IN_FLIGHT,),
    ),
    Mutation(
        "a key answers another request",
        "allocations/db/idempotency.py",
        "        if row.request_hash != self.request_hash:\n",
        "        if row.request_hash != row.request_hash:\n",
        (f"{T}tree.py",),
    ),
    Mutation(
        "keys of different callers meet at admission",
        "allocations/leases/admission.py",
        "        if one.key is not None and one.key.name in known:\n",
        "        known = {(one.actor, key): answer for (_, key), answer in known.items()}\n"
        "        if one.key is not None and one.key.name in known:\n",
        (f"{T}ledger.py",),
    ),
    Mutation(
        "keys of different callers meet",
        "allocations/db/idempotency.py",
        """    idempotency.c.caller == bindparam("of_caller"), idempotency.c.key == bindparam("of_key")
""",
        """    idempotency.c.key == bindparam("of_key")
""",
        (f"{T}ledger.py",),
    ),
    # ---------------------------------------------------------------- publications
    Mutation(
        "two who add a publication at once are not reconciled",
        "allocations/lifecycle/publications.py",
        "    @answered_once\n",
        "",
        (IN_FLIGHT,),
    ),
    Mutation(
        "a publication is made anew for each allocation",
        "allocations/lifecycle/publications.py",
        "            if publication is None:\n",
        "            if publication is None or publication.id:\n",
        (f"{T}publications.py",),
    ),
    Mutation(
        "anybody unlinks",
        "allocations/lifecycle/publications.py",
        "            if linked_by != actor.name:\n",
        "            if linked_by == actor.name * 2:\n",
        (f"{T}publications.py",),
    ),
    # ---------------------------------------------------------------- the calendar
    Mutation(
        "two workers find a renewal due",
        "allocations/lifecycle/allocations.py",
        "        self.ledger.lock(connection, [root_id])\n",
        "        assert root_id\n",
        (IN_FLIGHT,),
    ),
    # ---------------------------------------------------------------- leases
    Mutation(
        "a lease begins to run without its lock",
        "allocations/leases/service.py",
        "self.leases.get(connection, lease_id, lock=True)",
        "self.leases.get(connection, lease_id)",
        (IN_FLIGHT,),
    ),
    Mutation(
        "what renews and ends leases reads without locking",
        "allocations/leases/accounting.py",
        "balances = self.ledger.balances(connection, on, lock=True)",
        "balances = self.ledger.balances(connection, on, lock=False)",
        (IN_FLIGHT,),
    ),
    Mutation(
        "times that are reported are believed",
        "allocations/leases/accounting.py",
        "    return max(lease.acquired_at_ms, min(at_ms, now_ms))\n",
        "    return at_ms\n",
        (f"{T}leases.py",),
    ),
    Mutation(
        "the clock of a restarted process is believed",
        "allocations/leases/accounting.py",
        "    return max(books.now_ms, lease.moved_at_ms)\n",
        "    return books.now_ms\n",
        (f"{T}watch.py",),
    ),
    Mutation(
        "what the worker guessed stands",
        "allocations/leases/accounting.py",
        "            return self._corrected(books, lease, ending) if lease.is_guessed else lease\n",
        "            return lease\n",
        (f"{T}leases.py",),
    ),
    Mutation(
        "every end is corrected by the next report",
        "allocations/leases/accounting.py",
        "            return self._corrected(books, lease, ending) if lease.is_guessed else lease\n",
        "            return self._corrected(books, lease, ending)\n",
        (f"{T}leases.py",),
    ),
    Mutation(
        "a report without a time corrects a guess",
        "allocations/leases/accounting.py",
        "        if ending.reason is not EndReason.STOPPED or ending.ended_at_ms is None:\n",
        "        if ending.reason is not EndReason.STOPPED:\n",
        (f"{T}leases.py",),
    ),
    Mutation(
        "what was charged too much by a guess is kept",
        "allocations/leases/accounting.py",
        "            elif ran < charged_to:\n",
        "            elif ran < charged_to * 0:\n",
        (f"{T}leases.py",),
    ),
    Mutation(
        "a correction takes more than the balance has",
        "allocations/leases/accounting.py",
        "            reach = min(reach, charged_to + available // last.per_second)\n",
        "            reach = max(reach, charged_to + 0 * available)\n",
        (f"{T}leases.py",),
    ),
    Mutation(
        "a start after a guess is forgotten",
        "allocations/leases/service.py",
        "not (lease.state is LeaseState.OPEN or lease.is_guessed)",
        "lease.state is not LeaseState.OPEN",
        (f"{T}leases.py",),
    ),
    Mutation(
        "a start after a guess is later than the end",
        "allocations/leases/service.py",
        "ended_at_ms=max(lease.ended_at_ms or 0, running.started_at_ms or 0)",
        "ended_at_ms=lease.ended_at_ms",
        (f"{T}leases.py",),
    ),
    Mutation(
        "who is no member any more is renewed",
        "allocations/leases/accounting.py",
        "            return 0\n        return may_run_until_ms",
        "            pass\n        return may_run_until_ms",
        (f"{T}leases.py",),
    ),
    Mutation(
        "runs on a stopped allocation keep their whole maximum",
        "allocations/leases/watch.py",
        "        self.leases.end_stopped(self.rules.allocation_end_grace_seconds)\n",
        "",
        (f"{T}stopped.py",),
    ),
    Mutation(
        "a server that vanished is settled on a second look, however soon",
        "allocations/leases/watch.py",
        "            and now_ms - lease.missing_since_ms >= self.rules.reconcile_seconds * MS_PER_SECOND\n",
        "",
        (f"{T}watch.py",),
    ),
)


def run_tests(tree: Path, tests: list[str], *, on_postgresql: bool = False) -> int:
    """Run tests in a tree until the first fails; return pytest's exit code."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    if not on_postgresql:
        command += ["-k", "not postgresql"]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, check=False).returncode


def outcome(mutation: Mutation, tree: Path) -> str:
    """Make the edit in the tree, run the tests, undo it; say what became of the mutation."""
    path = tree / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        return "stale"
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        code = run_tests(tree, list(mutation.tests), on_postgresql=mutation.on_postgresql)
    finally:
        path.write_text(text)
    return {0: "SURVIVED", TESTS_FAILED: "killed"}.get(code, f"broken (pytest ended with {code})")


def main() -> None:
    """Try the mutations that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="mutations whose name or file has one of these texts (all)")
    names = parser.parse_args().names
    chosen = [one for one in MUTATIONS if not names or any(name in f"{one.name} {one.file}" for name in names)]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(REPOSITORY, tree, ignore=LEFT_OUT)
        if run_tests(tree, sorted({test for one in chosen for test in one.tests})):
            sys.exit("The tests fail as it is: nothing can be said of mutations.")
        outcomes = []
        for mutation in chosen:
            begin = time.monotonic()
            outcomes.append(outcome(mutation, tree))
            click.echo(f"{outcomes[-1]:10} {time.monotonic() - begin:4.0f} s  {mutation.file}: {mutation.name}")
    click.echo(f"{outcomes.count('killed')} of {len(outcomes)} killed")
    sys.exit(set(outcomes) != {"killed"})


if __name__ == "__main__":
    main()
