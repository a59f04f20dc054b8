"""When a purge must not go on, and what people are told of it."""

from tests.mutations.mutation import Mutation

SERVICE = "allocations/storage/purge/service.py"
OF_RUN = "tests/storage/purge/test_run.py"

MUTATIONS = (
    Mutation(
        "a clock that went back holds no purge up",
        "allocations/storage/purge/run.py",
        " or purge.is_within_window(now_ms):",
        ":",
        (f"{OF_RUN}::test_a_clock_that_goes_back_puts_off_what_was_due",),
    ),
    Mutation(
        "a clock that went back holds no deletion up",
        "allocations/storage/purge/steps.py",
        "            if purge.is_within_window(self.clock.now_ms()):\n",
        "            if False:\n",
        (f"{OF_RUN}::test_a_clock_that_goes_back_while_files_are_deleted_stops_it_at_the_next_batch",),
    ),
    Mutation(
        "the end that a late reminder tells does not hold",
        SERVICE,
        ', "window_ends_at_ms": ends_at_ms}',
        "}",
        (f"{OF_RUN}::test_a_late_reminder_tells_the_end_that_holds",),
    ),
    Mutation(
        "a late reminder is out for no time",
        SERVICE,
        "            until_ms = max(ends_at_ms, now_ms + reached[-1] * MS_PER_DAY)\n",
        "            until_ms = ends_at_ms\n",
        (f"{OF_RUN}::test_a_late_reminder_tells_the_end_that_holds",),
    ),
    Mutation(
        "a purge that broke off halfway was called off",
        "allocations/storage/purge/telling.py",
        "        if purge.position:\n",
        "        if False:\n",
        (f"{OF_RUN}::test_a_purge_that_breaks_off_while_it_deletes_says_what_is_gone_and_where_it_is",),
    ),
    Mutation(
        "a purge that broke off in its first files broke off halfway",
        "allocations/storage/purge/telling.py",
        "        if purge.position:\n",
        "        if purge.state is PurgeState.DELETING:\n",
        (f"{OF_RUN}::test_one_that_breaks_off_in_its_first_files_says_that_it_was_at_its_beginning",),
    ),
    Mutation(
        "what a plan spools is removed while it is made",
        "allocations/storage/purge/spool.py",
        "_locked(spools, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "_locked(spools, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        ("tests/storage/purge/test_spool.py",),
    ),
    Mutation(
        "a plan is made while what is left is removed",
        "allocations/storage/purge/spool.py",
        "_locked(spools, fcntl.LOCK_SH)",
        "_locked(spools, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        ("tests/storage/purge/test_spool.py::test_who_comes_while_what_is_left_is_removed_waits_for_its_end",),
    ),
    Mutation(
        "no room for plans is told by a number",
        "allocations/storage/purge/run.py",
        "NO_ROOM if error.errno in {errno.ENOSPC, errno.EDQUOT} else str(error)",
        "str(error)",
        ("tests/storage/purge/test_full_disks.py::test_no_room_for_the_record_of_arrivals_leaves_it_as_it_was",),
    ),
    Mutation(
        "a record of arrivals that found no room is left half written",
        "allocations/storage/purge/arrivals.py",
        '    with _removed(temporary, f"{path}.days"):\n',
        "    with _removed():\n",
        ("tests/storage/purge/test_full_disks.py::test_no_room_for_the_record_of_arrivals_leaves_it_as_it_was",),
    ),
)
