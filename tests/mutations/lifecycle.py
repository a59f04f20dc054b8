"""Allocations and their people: the tree, requests, members, publications, the calendar."""

from tests.mutations.mutation import IN_FLIGHT, Mutation, T

MUTATIONS = (
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
        "allocations/lifecycle/request_records.py",
        "        return self.find(connection, request_id, lock=True)\n",
        "        return self.find(connection, request_id)\n",
        (IN_FLIGHT,),
    ),
    Mutation(
        "the same may be asked for twice at once",
        "allocations/lifecycle/request_records.py",
        "        self.ledger.lock(connection, [allocation_id])\n",
        "",
        (IN_FLIGHT,),
    ),
    Mutation(
        "a decision in any state",
        "allocations/lifecycle/deciding.py",
        "        if request.state not in REQUEST_TRANSITIONS[action].sources:\n",
        "        if request.state not in REQUEST_TRANSITIONS[action].sources and not action:\n",
        (f"{T}requests.py",),
    ),
    Mutation(
        "a panel of one reviewer less",
        "allocations/lifecycle/deciding.py",
        "        if len(scores) < needed:\n",
        "        if len(scores) < needed - 1:\n",
        (f"{T}requests.py",),
    ),
    Mutation(
        "a declared conflict does not bar",
        "allocations/lifecycle/deciding.py",
        "            review.conflict and review.reviewer == actor.name\n",
        "            review.conflict and review.reviewer == actor.name * 2\n",
        (f"{T}requests.py",),
    ),
    Mutation(
        "members review what is asked for on their allocation",
        "allocations/lifecycle/deciding.py",
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
    Mutation(
        "what changed since it was seen is decided on",
        "allocations/lifecycle/requests.py",
        "            if seen_at_ms is not None and seen_at_ms != request.updated_at_ms:\n",
        "            if seen_at_ms is not None and not action:\n",
        (f"{T}reviewers.py",),
    ),
    Mutation(
        "a draft is submitted by who manages no more",
        "allocations/lifecycle/requests.py",
        "                self._require_complete(connection, request)\n",
        "                pass\n",
        (f"{T}reviewers.py",),
    ),
    Mutation(
        "reviewers read drafts",
        "allocations/reports/service.py",
        "request.state is not RequestState.DRAFT and (",
        "(",
        (f"{T}reviewers.py",),
    ),
    Mutation(
        "reviewers are told of what they may not decide",
        "allocations/lifecycle/request_records.py",
        "            found -= {member.person for member in self.allocations.members(connection, nodes)}\n",
        "",
        (f"{T}reviewers.py",),
    ),
    Mutation(
        "members of a part have no conflict in the queue",
        "allocations/lifecycle/stores/requests.py",
        "declared.union(belongs)",
        "declared",
        (f"{T}reviewers.py",),
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
)
