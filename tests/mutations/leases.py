"""What is admitted, what runs on, and what is charged."""

from tests.mutations.mutation import IN_FLIGHT, Mutation, T

MUTATIONS = (
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
        "            return 0\n        until_ms = may_run_until_ms",
        "            pass\n        until_ms = may_run_until_ms",
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
