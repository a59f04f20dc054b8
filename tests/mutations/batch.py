"""Whose turn it is to run, what a run is charged, when a schedule comes, and how a run truly ended."""

from tests.mutations.mutation import IN_FLIGHT, Mutation, T

CHAINS = "allocations/runs/chains.py"
QUEUE = "allocations/runs/queue.py"
RETRIES = "allocations/runs/retries.py"
SERVICE = "allocations/runs/service.py"
SWEEPS = "allocations/runs/sweeps.py"
SWEEP_STORE = "allocations/runs/sweep_store.py"
SCHEDULES = "allocations/runs/schedules.py"
DUTY = "allocations/runs/schedule_duty.py"
PROVENANCE = "allocations/runs/provenance.py"
FILES = "hub/batch/files.py"
NOTEBOOK = "hub/batch/notebook.py"
EXECUTOR = "hub/batch/executor.py"
OF_SWEEPS = f"{T}sweeps.py"
OF_RETRIES = f"{T}run_retries.py"
OF_RUNS = f"{T}runs.py"
OF_SCHEDULES = f"{T}schedules.py"
OF_JOBS = "tests/batch/test_batch_jobs.py"
OF_EXECUTOR = "tests/batch/test_batch_executor.py"
OF_RUNNER = "tests/batch/test_batch_runner.py"

MUTATIONS = (
    # ---------------------------------------------------------------- chains
    Mutation(
        "a run begins though what it waits for has failed",
        CHAINS,
        "    return and_(waits_for.is_not(None), _awaits(waiting_id, or_(_UNENDED, failed)))\n",
        "    return and_(waits_for.is_not(None), _awaits(waiting_id, _UNENDED))\n",
        (f"{T}chains.py::test_a_run_that_waits_in_vain_is_cancelled_with_all_that_wait_for_it",),
    ),
    Mutation(
        "what waits for a sweep begins while runs of it are left",
        CHAINS,
        "_UNENDED = or_(_run_in(_UNENDED_STATES), _sweep_in(_UNENDED_STATES))\n",
        "_UNENDED = _run_in(_UNENDED_STATES)\n",
        (f"{T}sweep_chains.py",),
    ),
    Mutation(
        "a run waits for another person's, and learns how it ends",
        SERVICE,
        "self.chains.of_person(connection, submission.person, after)",
        "self.chains._found(connection, after)",
        (f"{T}chains.py::test_what_cannot_be_waited_for_is_refused",),
    ),
    # ---------------------------------------------------------------- whose turn it is
    Mutation(
        "a sweep runs more at once than it was submitted with",
        QUEUE,
        "self.queue.active_of(connection, head.sweep_id) >= at_once:",
        "self.queue.active_of(connection, head.sweep_id) > at_once:",
        (f"{OF_SWEEPS}::test_a_sweep_is_queued_together_runs_so_many_at_once_and_adds_up",),
    ),
    Mutation(
        "two executors together run more of a sweep than it was submitted with",
        SWEEP_STORE,
        ".where(sweeps.c.id == sweep_id).with_for_update()).one())",
        ".where(sweeps.c.id == sweep_id)).one())",
        (f"{OF_SWEEPS}::test_two_executors_together_keep_to_what_a_sweep_runs_at_once",),
        on_postgresql=True,
    ),
    Mutation(
        "a run is claimed twice",
        QUEUE,
        "        run = self.queue.first(connection, head, lock=True)\n",
        "        run = self.queue.first(connection, head)\n",
        (f"{IN_FLIGHT}::test_a_run_is_claimed_by_one_of_two_executors",),
        on_postgresql=True,
    ),
    Mutation(
        "an allocation with many runs comes before one with none",
        QUEUE,
        "                on_allocation[one.allocation_id],\n",
        "",
        (f"{OF_RUNS}::test_an_allocation_of_many_people_does_not_starve_that_of_one",),
    ),
    Mutation(
        "a person with many runs comes before one with none",
        QUEUE,
        "                self.active[one.allocation_id, one.person],\n",
        "",
        (f"{T}fair_order.py::test_a_sweep_starves_neither_another_person_nor_a_single_run_of_its_own",),
    ),
    Mutation(
        "small runs keep a large one waiting for good",
        QUEUE,
        "        if cores >= run.cores and gpus >= run.gpus:\n",
        "        if False:\n",
        (f"{T}fair_order.py::test_small_runs_of_sweeps_leave_what_comes_free_to_a_large_run_before_them",),
    ),
    # ---------------------------------------------------------------- sweeps
    Mutation(
        "a sweep's price is not looked at before it is queued",
        SWEEPS,
        "            self.runs.check_within(connection, prepared)\n",
        "",
        (f"{OF_SWEEPS}::test_what_a_sweep_must_be_is_said_before_anything_is_queued",),
    ),
    Mutation(
        "an estimate promises what a member may not spend",
        SWEEPS,
        "            free = min(free, member.microcredits_max - held - charged)\n",
        "            assert held + charged >= 0\n",
        (f"{OF_SWEEPS}::test_an_estimate_counts_what_a_member_may_spend_still",),
    ),
    Mutation(
        "a retry of the failed takes the succeeded too",
        SWEEP_STORE,
        "_LAST, runs.c.state.in_(states))",
        "_LAST)",
        (f"{OF_SWEEPS}::test_only_the_failed_are_retried_and_what_they_cost_stays_counted",),
    ),
    Mutation(
        "what a cancelled sweep runs goes on",
        SWEEP_STORE,
        "                runs.c.state.in_([RunState.QUEUED, *ACTIVE_STATES]),\n",
        "                runs.c.state == RunState.QUEUED,\n",
        (f"{OF_SWEEPS}::test_a_sweep_is_cancelled_in_one_act",),
    ),
    Mutation(
        "a person reads and cancels another's sweep",
        SWEEPS,
        "        if sweep is None or sweep.person != person:\n",
        "        if sweep is None:\n",
        (f"{OF_SWEEPS}::test_a_sweep_is_its_persons_alone",),
    ),
    # ---------------------------------------------------------------- attempts and what they cost
    Mutation(
        "a notebook is tried again without end",
        RETRIES,
        "        and run.retried < run.retries\n",
        "",
        (f"{OF_RETRIES}::test_a_failing_notebook_is_tried_as_often_as_was_asked_and_each_attempt_is_charged",),
    ),
    Mutation(
        "what fails for certain is tried again at its person's cost",
        RETRIES,
        "        and failed_by not in NOT_AGAIN\n",
        "",
        (f"{OF_RETRIES}::test_what_would_come_again_for_certain_is_not_tried_again",),
    ),
    Mutation(
        "what was cancelled is tried again at its person's cost",
        RETRIES,
        "        and not run.cancel_requested\n",
        "",
        (f"{OF_RETRIES}::test_a_cancelled_run_is_not_tried_again",),
    ),
    Mutation(
        "what the platform loses each time is tried for ever",
        RETRIES,
        " and run.attempt - run.retried < attempts",
        "",
        (f"{OF_RUNS}::test_a_lost_run_is_free_and_queued_again_then_failed",),
    ),
    Mutation(
        "a person's own retries use up the platform's",
        RETRIES,
        "run.attempt - run.retried < attempts",
        "run.attempt < attempts",
        (f"{OF_RETRIES}::test_a_retry_leaves_the_platform_all_of_its_attempts",),
    ),
    Mutation(
        "what earlier attempts cost is not told",
        RETRIES,
        "run.charged_before_microcredits + charged_microcredits,",
        "charged_microcredits,",
        (f"{OF_RETRIES}::test_a_failing_notebook_is_tried_as_often_as_was_asked_and_each_attempt_is_charged",),
    ),
    Mutation(
        "a report of an earlier attempt ends a later one",
        SERVICE,
        "    return run.state in ACTIVE_STATES and run.attempt == attempt\n",
        "    return run.state in ACTIVE_STATES and attempt > 0\n",
        (f"{OF_RUNS}::test_a_lost_run_is_free_and_queued_again_then_failed",),
    ),
    Mutation(
        "what the platform lost is charged",
        SERVICE,
        "Ending(run.lease_id, LeaseState.VOIDED, EndReason.LOST)",
        "Ending(run.lease_id, LeaseState.SETTLED, EndReason.LOST)",
        (f"{OF_RUNS}::test_a_lost_run_is_free_and_queued_again_then_failed",),
    ),
    Mutation(
        "a run that is submitted again under its key is another",
        SERVICE,
        "            idempotency.remember(connection, view.model_dump_json(), run.submitted_at_ms)\n",
        "",
        (f"{OF_RUNS}::test_a_double_submission_queues_one_run",),
    ),
    # ---------------------------------------------------------------- how a run truly ended
    Mutation(
        "a notebook whose kernel died claims success",
        NOTEBOOK,
        "                self.nb_man.cell_exception(cell, cell_index=index)\n"
        "                raise NotebookFailedError(",
        "                raise NotebookFailedError(",
        (f"{OF_RUNNER}::test_a_dead_kernel_fails_the_run_and_the_notebook_does_not_claim_success",),
    ),
    Mutation(
        "a runner does not keep its deadline",
        "hub/batch/runner.py",
        "max(0.0, self._deadline - time.monotonic()))",
        "max(0.0, self._deadline - time.monotonic()) + 3600)",
        (f"{OF_RUNNER}::test_the_runner_keeps_the_deadline_by_itself",),
    ),
    Mutation(
        "a runner that cannot end at its deadline goes on",
        EXECUTOR,
        "            if elapsed_seconds > run.max_seconds + OVERDUE_SECONDS:\n",
        "            if False:\n",
        (f"{OF_EXECUTOR}::test_a_runner_that_cannot_keep_its_deadline_is_killed_and_its_run_has_timed_out",),
    ),
    Mutation(
        "a run that nobody cancelled counts as cancelled, and is charged",
        EXECUTOR,
        'from_text(result.ended_at)) or "lost"',
        'from_text(result.ended_at)) or "cancelled"',
        (f"{OF_EXECUTOR}::test_a_run_that_nobody_cancelled_is_lost_when_its_runner_is_stopped",),
    ),
    Mutation(
        "what a notebook declares makes its run a lost one, which is free",
        "hub/batch/provenance.py",
        "found if isinstance(found, list) else []",
        "found or []",
        ("tests/batch/test_batch_outputs.py::test_a_notebook_that_declares_what_is_no_file_ends_as_it_ended",),
    ),
    Mutation(
        "a second pod executes the notebook again",
        FILES,
        "        except FileExistsError:\n            return False\n",
        "        except FileExistsError:\n            return True\n",
        (f"{OF_JOBS}::test_an_attempt_is_taken_by_one_pod_for_good",),
    ),
    Mutation(
        "an attempt begins while an earlier one writes to its folder",
        "hub/batch/kube.py",
        "        self._end_earlier(run)\n",
        "",
        ("tests/batch/test_batch_kube.py::test_the_next_attempt_waits_for_the_end_of_the_one_before",),
    ),
    # ---------------------------------------------------------------- schedules
    Mutation(
        "a time that was dealt with is run again",
        DUTY,
        "        if planned.run_at_ms is not None and not self._is_known(connection, schedule, planned.run_at_ms):\n",
        "        if planned.run_at_ms is not None:\n",
        (f"{OF_SCHEDULES}::test_a_time_that_comes_again_because_the_clock_was_put_back_is_not_run_again",),
    ),
    Mutation(
        "a run of a schedule begins beside the one before",
        DUTY,
        "            may_queue = planned.is_made_up or schedule.overlap is OverlapPolicy.QUEUE\n",
        "            may_queue = True\n",
        (f"{OF_SCHEDULES}::test_a_run_that_has_not_ended_lets_the_next_be_skipped_or_wait",),
    ),
    Mutation(
        "what a person changes while a worker looks is not seen",
        DUTY,
        "                if self.schedules.get(connection, seen.id, lock=True) != seen:\n"
        "                    return False\n",
        "",
        (f"{OF_SCHEDULES}::test_what_its_owner_changes_while_a_worker_looks_counts",),
    ),
    Mutation(
        "a paused schedule goes on",
        SCHEDULES,
        '{"state": ScheduleState.PAUSED, "pause_reason": None, "next_at_ms": None}',
        '{"pause_reason": None}',
        (f"{OF_SCHEDULES}::test_a_schedule_is_changed_paused_resumed_and_removed_by_its_owner_alone",),
    ),
    Mutation(
        "a person changes another's schedule",
        SCHEDULES,
        "        if schedule is None or schedule.person != person:\n            raise",
        "        if schedule is None:\n            raise",
        (f"{OF_SCHEDULES}::test_a_schedule_is_changed_paused_resumed_and_removed_by_its_owner_alone",),
    ),
    Mutation(
        "the title of another's schedule stands beside a run",
        SCHEDULES,
        "return None if schedule is None or schedule.person != person else",
        "return None if schedule is None else",
        (f"{OF_SCHEDULES}::test_a_schedule_submits_its_run_at_each_time_and_once",),
    ),
    Mutation(
        "the schedules of an account that has ended go on",
        SERVICE,
        "            paused = self.schedules.pause_of(connection, person, ACCOUNT_ENDED)\n",
        "            paused = 0\n",
        (f"{OF_SCHEDULES}::test_the_schedules_of_an_account_that_has_ended_are_paused",),
    ),
    Mutation(
        "a nightly run comes twice when the clock is put back",
        "allocations/runs/cron.py",
        '        return not minute.startswith("*") and not hour.startswith("*")\n',
        '        return not (minute + hour).strip("0123456789*/,-")\n',
        (f"{T}cron.py::test_the_clock_goes_forward_and_back_in_berlin",),
    ),
    # ---------------------------------------------------------------- records
    Mutation(
        "a notebook says which notebook it was",
        PROVENANCE,
        '            fields["notebook_sha256"] = submitted.notebook_sha256\n',
        "            pass\n",
        (f"{T}records.py::test_a_record_is_taken_in_at_the_end_and_the_clusters_word_counts",),
    ),
    Mutation(
        "another notebook is run in the place of the one that is replayed",
        "allocations/runs/records.py",
        "        if record.provenance and hashlib.sha256(content).hexdigest() != record.provenance.notebook_sha256:\n",
        "        if not hashlib.sha256(content):\n",
        (f"{T}records.py::test_a_notebook_that_was_written_over_is_not_replayed",),
    ),
)
