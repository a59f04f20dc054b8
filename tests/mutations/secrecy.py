"""What a run may see of other people's, of the platform's and of its person's own, and in which image."""

from tests.mutations.mutation import Mutation, T

QUEUE = "allocations/runs/queue.py"
SERVICE = "allocations/runs/service.py"
SECRETS = "allocations/runs/secrets.py"
IMAGES = "allocations/leases/images.py"
FILES = "hub/batch/files.py"
ENVIRONMENT = "hub/batch/environment.py"
OF_RETRIES = f"{T}run_retries.py"
OF_RUNS = f"{T}runs.py"
OF_SECRETS = f"{T}secrets.py"
OF_JOBS = "tests/batch/test_batch_jobs.py"
OF_EXECUTOR = "tests/batch/test_batch_executor.py"
MATRIX = f"{T}api_matrix.py::test_who_may_do_what[sqlite-{{}}]"

MUTATIONS = (
    # ---------------------------------------------------------------- whose a run is
    Mutation(
        "a person reads and cancels another's runs and their files",
        SERVICE,
        "        if run.person != person:\n",
        "        if False:\n",
        (f"{OF_RUNS}::test_a_runs_files_are_read_only_as_plain_files",),
    ),
    Mutation(
        "the runs of who left an allocation go on there",
        "allocations/runs/store.py",
        "        departed = runs.c.cancel_requested.is_(False) & ~is_member\n",
        "        departed = runs.c.cancel_requested.is_(False) & ~is_member & (runs.c.state == RunState.QUEUED)\n",
        (f"{OF_RUNS}::test_the_runs_of_a_person_who_leaves_are_cancelled",),
    ),
    Mutation(
        "whoever may run notebooks takes the runs of all",
        "allocations/api/v1/runs.py",
        "def claim(body: ClaimBody, services: Wired, _caller: LeaseHolder)",
        "def claim(body: ClaimBody, services: Wired, _caller: Runner)",
        (MATRIX.format("POST /runs/claim"),),
    ),
    Mutation(
        "whoever may run notebooks reads the secrets of all",
        "allocations/api/v1/secrets.py",
        "services: Wired, _caller: LeaseHolder) -> RunEnvironment",
        "services: Wired, _caller: Runner) -> RunEnvironment",
        (MATRIX.format("GET /runs/{run_id}/environment"),),
    ),
    # ---------------------------------------------------------------- secrets
    Mutation(
        "a run is given another person's secrets",
        "allocations/runs/secret_store.py",
        ".where(secrets.c.person == person, secrets.c.name.in_(names))\n        )\n",
        ".where(secrets.c.name.in_(names))\n        )\n",
        (f"{OF_SECRETS}::test_a_secret_that_is_not_there_is_named_at_submission_and_at_the_start",),
    ),
    Mutation(
        "a secret that was moved to another person opens",
        SECRETS,
        "        if found[:2] != [person, name]:\n",
        "        if not found:\n",
        (f"{OF_SECRETS}::test_a_row_that_was_moved_to_another_person_does_not_open",),
    ),
    Mutation(
        "secrets are given after the end of a run",
        SECRETS,
        "            if run is None or run.state not in ACTIVE_STATES:\n",
        "            if run is None or run.state not in {*ACTIVE_STATES, 'succeeded'}:\n",
        (f"{OF_SECRETS}::test_secrets_are_given_only_while_a_run_begins_or_goes_on",),
    ),
    Mutation(
        "the keys of a bucket reach the notebook",
        SECRETS,
        "            values={name: opened[name] for name in names},\n",
        "            values=opened,\n",
        (f"{OF_SECRETS}::test_a_bucket_needs_the_persons_keys_which_the_notebook_does_not_get",),
    ),
    Mutation(
        "a secret's value is in what is written of a run's environment",
        SECRETS,
        "    values: dict[str, str] = Field(repr=False)\n",
        "    values: dict[str, str]\n",
        (f"{OF_SECRETS}::test_a_run_is_given_the_secrets_that_it_names_and_no_others",),
    ),
    Mutation(
        "a secret stays in the folder of its run",
        ENVIRONMENT,
        "    directory.given.unlink()\n",
        "",
        ("tests/batch/test_batch_environment.py::test_a_runner_in_a_pod_asks_and_takes_away_what_it_is_given",),
    ),
    Mutation(
        "a secret is for everybody who sees the folder of its run",
        ENVIRONMENT,
        "        os.fchmod(descriptor, 0o640)\n",
        "        os.fchmod(descriptor, 0o644)\n",
        ("tests/batch/test_batch_environment.py::test_what_is_given_is_for_the_group_alone_and_follows_no_link",),
    ),
    Mutation(
        "the executor's own token reaches the notebook",
        "hub/batch/local.py",
        "for name in self._passed if name in self._environment}",
        "for name in self._environment}",
        (f"{OF_EXECUTOR}::test_a_queued_run_is_executed_and_reported",),
    ),
    Mutation(
        "a repository's password stays in the record of a run",
        "allocations/runs/submissions.py",
        'netloc=parts.netloc.rpartition("@")[2], ',
        "",
        (f"{OF_RETRIES}::test_where_the_notebook_came_from_is_kept_without_credentials",),
    ),
    # ---------------------------------------------------------------- places
    Mutation(
        "output is saved outside the home",
        "allocations/runs/places.py",
        '    if any(part in {".", ".."} for part in parts):\n',
        "    if False:\n",
        (f"{OF_SECRETS}::test_what_is_no_place_is_refused",),
    ),
    Mutation(
        "the executor writes through a link that a notebook made",
        FILES,
        '    temporary.unlink(missing_ok=True)\n    with temporary.open("x", ',
        '    with temporary.open("w", ',
        (f"{OF_JOBS}::test_nothing_is_written_through_a_link",),
    ),
    Mutation(
        "the executor reads through a link that a notebook made",
        FILES,
        "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC",
        "os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC",
        (f"{OF_JOBS}::test_a_pipe_a_link_and_a_folder_in_the_place_of_a_file_are_not_read",),
    ),
    Mutation(
        "a pod sees the folders of all runs",
        "hub/batch/jobs.py",
        'sub_path=f"{inside}{run.id}"',
        'sub_path=f"{inside}"',
        (f"{OF_JOBS}::test_a_pod_sees_the_folder_of_its_run_alone_and_has_no_token",),
    ),
    Mutation(
        "the service reads through a link that a notebook made",
        "allocations/runs/files.py",
        "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC",
        "os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC",
        (f"{OF_RUNS}::test_a_runs_files_are_read_only_as_plain_files",),
    ),
    Mutation(
        "a notebook's pod has a token of the cluster",
        "hub/batch/jobs.py",
        '"automountServiceAccountToken": False,',
        '"automountServiceAccountToken": True,',
        (f"{OF_JOBS}::test_a_pod_sees_the_folder_of_its_run_alone_and_has_no_token",),
    ),
    Mutation(
        "the folder of a run is any that its id leads to",
        "allocations/runs/files.py",
        "        if not _ID.fullmatch(run_id):\n",
        "        if False:\n",
        (f"{OF_RUNS}::test_a_runs_files_are_read_only_as_plain_files",),
    ),
    # ---------------------------------------------------------------- images
    Mutation(
        "an image is started beyond the end of its life",
        IMAGES,
        "    if version is not None and version.has_ended(today):\n",
        "    if False:\n",
        (f"{T}images.py::test_past_its_end_a_version_is_not_started_anew_and_the_denial_says_what_is",),
    ),
    Mutation(
        "what was queued in time is lost by the end of its image",
        QUEUE,
        "            chosen_at_ms=run.submitted_at_ms,\n",
        "",
        (f"{T}images.py::test_a_run_that_was_queued_in_time_keeps_its_version",),
    ),
    Mutation(
        "an image of one's own is started where the tier forbids it",
        IMAGES,
        "    if custom is None or not tier.custom_images:\n",
        "    if custom is None:\n",
        (f"{T}images.py::test_an_image_of_ones_own_needs_a_tier_a_place_and_containers",),
    ),
    Mutation(
        "an image of one's own comes from anywhere",
        IMAGES,
        "    if not any(is_within(to_reference(recorded), place) for place in custom.registries):\n",
        "    if False:\n",
        (f"{T}images.py::test_an_image_of_ones_own_needs_a_tier_a_place_and_containers",),
    ),
)
