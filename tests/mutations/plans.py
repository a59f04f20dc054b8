"""What a plan of a purge must not name, what it must not forget, and what a scan must not leave out."""

from tests.mutations.mutation import Mutation

PLANNING = "allocations/storage/purge/planning.py"
PLAN = "allocations/storage/purge/plan.py"
ARRIVALS = "allocations/storage/purge/arrivals.py"
EMPTIED = "allocations/storage/purge/emptied.py"
RULES = "allocations/storage/purge/rules.py"
WALK = "allocations/storage/tree/walk.py"
STATUSES = "allocations/storage/tree/statuses.py"
SCAN = "allocations/storage/tree/scan.py"
USAGE = "allocations/storage/tree/usage.py"
OF_PLAN = "tests/storage/test_plan.py"
OF_ARRIVALS = "tests/storage/test_arrivals.py"
OF_WALK = "tests/storage/test_walk.py"
OF_STATUSES = "tests/storage/test_statuses.py"
OF_USAGE = "tests/storage/test_usage.py"
AS_THE_ORACLE = f"{OF_PLAN}::test_a_plan_is_that_of_the_oracle"

MUTATIONS = (
    # ---------------------------------------------------------------- what is old
    Mutation(
        "a file that was unpacked with old dates is old",
        PLANNING,
        "        since[old] = np.maximum(since[old], arrived)\n",
        "        assert len(arrived) == len(old)\n",
        (f"{OF_PLAN}::test_a_file_unpacked_with_old_dates_is_not_old",),
    ),
    Mutation(
        "what is not known has been there for ever",
        PLANNING,
        "self._arrivals.days_of(keys[old], self._today)",
        "self._arrivals.days_of(keys[old], 0)",
        (f"{OF_PLAN}::test_a_file_unpacked_with_old_dates_is_not_old",),
    ),
    Mutation(
        "what came in the last hour of a day is a day old",
        PLANNING,
        "self._today) + 1) * NS_PER_DAY",
        "self._today) + 0) * NS_PER_DAY",
        (f"{OF_PLAN}::test_a_file_unpacked_with_old_dates_is_not_old",),
    ),
    Mutation(
        "what is read is old where the mount notes it",
        PLANNING,
        "            np.maximum(since, read, out=since)\n",
        "",
        (f"{OF_PLAN}::test_reading_keeps_a_file_where_the_mount_notes_it",),
    ),
    Mutation(
        "a reading counts from when it was noted, not from when it may have been",
        PLANNING,
        "            read = atimes + NS_PER_DAY\n",
        "            read = atimes\n",
        (f"{OF_PLAN}::test_reading_keeps_a_file_where_the_mount_notes_it",),
    ),
    Mutation(
        "a folder that has just been unpacked goes",
        PLANNING,
        " and folder_since <= self._rules.newest_ns[rule]:",
        ":",
        (f"{OF_PLAN}::test_a_file_unpacked_with_old_dates_is_not_old",),
    ),
    Mutation(
        "a date to come is one long ago",
        STATUSES,
        "np.clip(named[time], -_FARTHEST, _FARTHEST) * NS_PER_SECOND",
        "named[time] * NS_PER_SECOND",
        (f"{OF_PLAN}::test_dates_out_of_all_range_and_to_come_stay", OF_STATUSES),
    ),
    Mutation(
        "a date of a folder to come is one long ago",
        PLANNING,
        "max(-FARTHEST_NS, min(FARTHEST_NS, status.st_mtime_ns))",
        "(status.st_mtime_ns + (1 << 63)) % (1 << 64) - (1 << 63)",
        (f"{OF_PLAN}::test_numbers_beyond_64_bits_do_not_make_a_file_old",),
    ),
    # ---------------------------------------------------------------- what stays
    Mutation(
        "an exempt folder is planned",
        RULES,
        "        if self._exempt and self._is_exempt(path):\n",
        "        if self._exempt and path in self._exempt:\n",
        (AS_THE_ORACLE,),
    ),
    Mutation(
        "an exempt file is planned",
        RULES,
        "        if left is None and not exempt:\n",
        "        if left is None:\n",
        (f"{OF_PLAN}::test_an_exempt_file_stays_and_what_is_beside_it_goes",),
    ),
    Mutation(
        "a kept folder is planned",
        RULES,
        "        if self._kept.takes_folder(as_bytes):\n",
        "        if False:\n",
        (AS_THE_ORACLE,),
    ),
    Mutation(
        "of files that are alike one that is too young goes with the others",
        PLANNING,
        "            or max(old.since_ns) > self._rules.newest_ns[rule]\n",
        "",
        (f"{OF_PLAN}::test_of_files_that_are_alike_those_go_that_are_old_by_their_own_rule",),
    ),
    Mutation(
        "what no archive can hold is planned",
        PLANNING,
        "            if kind is None:\n                sums.unarchivable += 1\n                continue\n",
        '            kind = kind or "file"\n',
        (AS_THE_ORACLE,),
    ),
    Mutation(
        "a file of another file system is planned",
        PLANNING,
        "            if since > newest[rule] or not is_here:\n",
        "            if since > newest[rule]:\n",
        (f"{OF_PLAN}::test_a_file_that_is_mounted_over_stays",),
    ),
    Mutation(
        "a file of another file system is planned with others that are like it",
        PLANNING,
        "            or not all(old.is_here)\n",
        "",
        (f"{OF_PLAN}::test_a_file_that_is_mounted_over_stays",),
    ),
    Mutation(
        "a folder goes though something in it stays",
        PLANNING,
        " and folder.planned == folder.entries",
        "",
        (AS_THE_ORACLE,),
    ),
    Mutation(
        "a folder goes though a folder in it stays",
        EMPTIED,
        "        blocked = path in stays\n",
        "        blocked = False\n",
        (AS_THE_ORACLE,),
    ),
    Mutation(
        "a folder goes though something in it cannot be looked at",
        PLANNING,
        "        self._folder_spool.add(path, None)\n",
        "",
        (f"{OF_PLAN}::test_what_cannot_be_read_stays_with_the_folders_above",),
    ),
    # ---------------------------------------------------------------- what it says
    Mutation(
        "a file with several names frees its bytes though one stays",
        PLANNING,
        " if left[inode] == 0 and names[inode] == links else 0",
        " if left[inode] == 0 else 0",
        (AS_THE_ORACLE,),
    ),
    Mutation(
        "a file with several names frees its bytes with each",
        PLANNING,
        " if left[inode] == 0 and names[inode] == links else 0",
        " if names[inode] == links else 0",
        (AS_THE_ORACLE,),
    ),
    Mutation(
        "a plan for a moment to come is carried out",
        PLAN,
        "    if rules.as_of_ms > now_ms and not dry_run:\n",
        "    if False:\n",
        (f"{OF_PLAN}::test_a_moment_to_come_is_for_dry_runs_which_record_nothing",),
    ),
    Mutation(
        "a dry run notes what has arrived",
        PLAN,
        "        if not dry_run:\n",
        "        if True:\n",
        (f"{OF_PLAN}::test_a_moment_to_come_is_for_dry_runs_which_record_nothing",),
    ),
    # ---------------------------------------------------------------- the record of arrivals
    Mutation(
        "a damaged record of arrivals is believed",
        ARRIVALS,
        "            if found == checksum:\n",
        "            if found is not None:\n",
        (f"{OF_ARRIVALS}::test_a_damaged_record_is_refused_with_a_remedy",),
    ),
    Mutation(
        "what is known arrives anew with each plan",
        ARRIVALS,
        "            days[known] = old_days[at[known]]\n",
        "",
        (f"{OF_ARRIVALS}::test_the_record_is_that_of_a_dictionary",),
    ),
    # ---------------------------------------------------------------- the walk and the scan
    Mutation(
        "a folder that was put in another's place is read as that",
        "allocations/storage/tree/beneath.py",
        "    if expected is not None and identity(status) != expected:\n",
        "    if False:\n",
        (f"{OF_WALK}::test_what_vanishes_or_changes_under_a_walk_does_not_end_it",),
    ),
    Mutation(
        "what cannot be looked at is not told",
        WALK,
        "                    self._visitor.problem(prefix + names[number], error)\n",
        "                    pass\n",
        (f"{OF_PLAN}::test_what_cannot_be_looked_at_stays_with_the_folders_above_and_hides_nothing",),
    ),
    Mutation(
        "a folder that cannot be read to its end is taken for one that was",
        WALK,
        "        except OSError as error:\n            self._visitor.problem(path, error)\n        if names:\n",
        "        except OSError:\n            pass\n        if names:\n",
        (f"{OF_PLAN}::test_a_folder_that_cannot_be_read_to_its_end_stays",),
    ),
    Mutation(
        "what cannot be looked at is taken for what was there before",
        WALK,
        "                stays[number] = False\n                if not",
        "                if not",
        (f"{OF_PLAN}::test_what_cannot_be_looked_at_stays_with_the_folders_above_and_hides_nothing",),
    ),
    Mutation(
        "what cannot be looked at hides the others",
        STATUSES,
        "        for number in failed:\n            if _statx",
        "        for number in failed:\n            return self._statuses[:0], errors\n            if _statx",
        (f"{OF_STATUSES}::test_what_cannot_be_looked_at_is_told_and_does_not_hide_the_others",),
    ),
    Mutation(
        "a process of a scan that died is taken for done",
        SCAN,
        '                    raise ScanError("A process that scanned the tree died: scan again") from None\n',
        "                    return list(results.values())\n",
        (f"{OF_WALK}::test_a_scan_whose_process_dies_or_fails_says_so",),
    ),
    Mutation(
        "a process of a scan that failed is taken for done",
        SCAN,
        "                if isinstance(answer, Exception):\n                    raise answer\n",
        "                if isinstance(answer, Exception):\n                    return list(results.values())\n",
        (f"{OF_WALK}::test_a_scan_whose_process_dies_or_fails_says_so",),
    ),
    Mutation(
        "usage counts a file once for each of its names",
        USAGE,
        '        total += int(seen["bytes"][first].sum())\n',
        '        total += int(seen["bytes"].sum())\n',
        (f"{OF_USAGE}::test_bytes_are_those_of_du_with_links_once_and_holes_left_out",),
    ),
    Mutation(
        "usage counts what was never written of a file",
        USAGE,
        "        self._add(path, int(blocks.sum()) * BLOCK_BYTES, len(names))\n",
        "        self._add(path, int(sizes.sum()), len(names))\n",
        (f"{OF_USAGE}::test_bytes_are_those_of_du_with_links_once_and_holes_left_out",),
    ),
)
