"""Leases of scratch: who gives them, within which bounds, and that plans and second looks go by them."""

from tests.mutations.mutation import Mutation

SERVICE = "allocations/storage/scratch.py"
STORE = "allocations/storage/scratch_store.py"
STANDING = "allocations/storage/purge/standing.py"
PAGE = "allocations/web/storage.py"
PARTS = "allocations/web/templates/purge_parts.html"
OF_SCRATCH = "tests/storage/purge/test_scratch.py"
OF_PAGE = "tests/web/test_web_scratch.py"
WHO_MAY = (f"{OF_SCRATCH}::test_only_who_manages_it_may_and_strangers_learn_nothing", f"{OF_PAGE}::test_who_may")
WITHIN_POLICY = (f"{OF_SCRATCH}::test_beyond_the_policy_nothing_is_extended",)
REPLACED = (f"{OF_SCRATCH}::test_one_that_was_ended_counts_no_more_and_a_new_one_takes_the_place_of_another",)

MUTATIONS = (
    Mutation(
        "a member extends scratch",
        SERVICE,
        "            allocation = self.authority.managed(connection, actor, allocation_id)\n"
        "            view = self._view(connection, allocation)\n"
        "            if key ",
        "            allocation = self.authority.seen(connection, actor, allocation_id)\n"
        "            view = self._view(connection, allocation)\n"
        "            if key ",
        WHO_MAY,
    ),
    Mutation(
        "a member ends an extension of scratch",
        SERVICE,
        "            allocation = self.authority.managed(connection, actor, allocation_id)\n"
        "            view = self._view(connection, allocation)\n"
        "            if view.lease",
        "            allocation = self.authority.seen(connection, actor, allocation_id)\n"
        "            view = self._view(connection, allocation)\n"
        "            if view.lease",
        WHO_MAY,
    ),
    Mutation(
        "a stranger learns of a lease of scratch",
        SERVICE,
        "            return self._view(connection, self.authority.seen(connection, actor, allocation_id))\n",
        "            return self._view(connection, self.authority.find(connection, allocation_id))\n",
        WHO_MAY,
    ),
    Mutation(
        "files of scratch become older than the policy lets them",
        SERVICE,
        "            if not usual < age_days <= longest:\n",
        "            if not usual < age_days:\n",
        WITHIN_POLICY,
    ),
    Mutation(
        "files of scratch go earlier by a lease",
        SERVICE,
        "            if not usual < age_days <= longest:\n",
        "            if not age_days <= longest:\n",
        WITHIN_POLICY,
    ),
    Mutation(
        "a lease of scratch lasts for ever",
        SERVICE,
        "            if not 1 <= lasts_days <= longest:\n",
        "            if not 1 <= lasts_days:\n",
        WITHIN_POLICY,
    ),
    Mutation(
        "a lease of scratch is over when it begins",
        SERVICE,
        "            if not 1 <= lasts_days <= longest:\n",
        "            if not lasts_days <= longest:\n",
        WITHIN_POLICY,
    ),
    Mutation(
        "a tier without a longest age has one",
        SERVICE,
        "        extendable = [rule for rule in rules if rule.longest_days is not None]\n",
        "        extendable = [rule.model_copy(update={'longest_days': 90}) for rule in rules]\n",
        (f"{OF_SCRATCH}::test_a_tier_of_which_the_policy_says_no_longest_age_has_none",),
    ),
    Mutation(
        "a new lease of scratch leaves the one before in force",
        SERVICE,
        "            self.leases.end(connection, view.area.id, actor.name, now_ms)\n            self.leases.add",
        "            self.leases.add",
        REPLACED,
    ),
    Mutation(
        "a lease of scratch is made again by the same request",
        SERVICE,
        "            if key and key.recall(connection) is not None:\n                return view\n",
        "",
        (f"{OF_PAGE}::test_it_is_sent_twice_and_made_once_replaced_and_ended",),
    ),
    Mutation(
        "a lease of scratch is not in the audit log",
        SERVICE,
        '                "scratch.extend",\n',
        '                "scratch",\n',
        REPLACED,
    ),
    Mutation(
        "a lease of scratch that was ended is in force",
        STORE,
        "                scratch_leases.c.ended_at_ms.is_(None),\n"
        "                scratch_leases.c.until_ms > at_ms,\n"
        "            )\n"
        "            .order_by",
        "                scratch_leases.c.until_ms > at_ms,\n            )\n            .order_by",
        REPLACED,
    ),
    Mutation(
        "a lease of scratch outlasts its date",
        STORE,
        "                scratch_leases.c.ended_at_ms.is_(None),\n"
        "                scratch_leases.c.until_ms > at_ms,\n"
        "            )\n"
        "            .order_by",
        "                scratch_leases.c.ended_at_ms.is_(None),\n            )\n            .order_by",
        (f"{OF_SCRATCH}::test_the_longest_that_the_policy_allows_is_allowed",),
    ),
    Mutation(
        "a lease of scratch is another's",
        STORE,
        "                scratch_leases.c.area_id == area_id,\n"
        "                scratch_leases.c.ended_at_ms.is_(None),\n"
        "                scratch_leases.c.until_ms > at_ms,\n"
        "            )\n"
        "            .order_by",
        "                scratch_leases.c.ended_at_ms.is_(None),\n"
        "                scratch_leases.c.until_ms > at_ms,\n"
        "            )\n"
        "            .order_by",
        (f"{OF_SCRATCH}::test_the_lease_of_one_scratch_is_not_that_of_another",),
    ),
    Mutation(
        "a lease of scratch ends those of others",
        STORE,
        "            .where(\n"
        "                scratch_leases.c.area_id == area_id,\n"
        "                scratch_leases.c.ended_at_ms.is_(None),\n"
        "                scratch_leases.c.until_ms > at_ms,\n"
        "            )\n"
        "            .values",
        "            .where(\n"
        "                scratch_leases.c.ended_at_ms.is_(None),\n"
        "                scratch_leases.c.until_ms > at_ms,\n"
        "            )\n"
        "            .values",
        (f"{OF_SCRATCH}::test_the_lease_of_one_scratch_is_not_that_of_another",),
    ),
    Mutation(
        "a purge knows of no lease of scratch",
        STANDING,
        "            extended_days=lease.age_days if lease else None,\n",
        "",
        (f"{OF_SCRATCH}::test_the_second_look_goes_by_it",),
    ),
    Mutation(
        "a purge of a day that is over knows what was in force then",
        STANDING,
        "max(run.as_of_ms, self.clock.now_ms())",
        "run.as_of_ms",
        (f"{OF_SCRATCH}::test_a_plan_as_of_a_day_before_goes_by_the_lease_of_today",),
    ),
    Mutation(
        "the page extends what is no scratch",
        SERVICE,
        "        if area.storage_class is not StorageClass.SCRATCH or area.owner.allocation_id is None:\n",
        "        if area.owner.allocation_id is None:\n",
        (f"{OF_PAGE}::test_only_scratch_has_an_age_to_extend",),
    ),
    Mutation(
        "the page loses the key of what was sent",
        PAGE,
        '        reason, key = sent.text("age_reason"), sent.key() or None\n',
        '        reason, key = sent.text("age_reason"), None\n',
        (f"{OF_PAGE}::test_it_is_sent_twice_and_made_once_replaced_and_ended",),
    ),
    Mutation(
        "the page loses what was typed",
        PAGE,
        "        typed = {name: sent.text(name) for name in AGE_FIELDS}\n",
        "        typed: dict[str, str] = {}\n",
        (f"{OF_PAGE}::test_a_form_that_is_wrong_says_what_and_keeps_what_was_typed",),
    ),
    Mutation(
        "the page shows everybody the form for the age",
        PARTS,
        "{% if may_ask and age.longest_days %}",
        "{% if age.longest_days %}",
        (f"{OF_PAGE}::test_who_may",),
    ),
    Mutation(
        "the page shows everybody how to end an extension",
        PARTS,
        "{% if may_ask and age.lease %}",
        "{% if age.lease %}",
        (f"{OF_PAGE}::test_who_may",),
    ),
    Mutation(
        "a reason is part of the page",
        PARTS,
        "{{ lease.reason }}",
        "{{ lease.reason | safe }}",
        (f"{OF_PAGE}::test_the_page_says_what_is_in_force_and_the_most_that_may_be",),
    ),
)
