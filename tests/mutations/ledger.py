"""The ledger: limits, locks, keys, batches."""

from tests.mutations.mutation import IN_FLIGHT, Mutation, T

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
    # ---------------------------------------------------------------- the use by day
    *(
        Mutation(
            f"{name} of a day are not added up",
            "allocations/db/daily_use.py",
            '{name} = daily_use.{name} + excluded.{name}" for name in SUMS)',
            f'{{name}} = daily_use.{{name}} + excluded.{{name}}" for name in SUMS if name != "{name}")',
            (f"{T}storage_charges.py::test_all_that_is_charged_to_one_on_a_day_is_added_up",),
        )
        for name in ("storage_microcredits", "byte_days")
    ),
    Mutation(
        "the audit does not look at the use by day",
        "allocations/ledger/audit.py",
        "        _journal_rebuilds_daily_use,\n",
        "",
        (f"{T}audit.py",),
    ),
    Mutation(
        "a day that is missing is no difference",
        "allocations/db/daily_use.py",
        "HAVING count(*) <> 2 OR ",
        "HAVING ",
        (f"{T}audit.py::test_10_a_day_that_is_missing_or_another_s",),
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
)
