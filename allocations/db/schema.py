"""The tables. Times are milliseconds since the epoch (UTC), money is microcredits, both as 64-bit integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    select,
    text,
)

if TYPE_CHECKING:
    from sqlalchemy import CTE, BindParameter, ColumnElement

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# A serial key that SQLite, too, counts up by itself (it does so only for INTEGER).
Serial = BigInteger().with_variant(Integer, "sqlite")

agreements = Table(
    "agreements",
    metadata,
    Column("person", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("accepted_at_ms", BigInteger, nullable=False),
)

allocations = Table(
    "allocations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("parent_id", Text, ForeignKey("allocations.id")),
    Column("root_id", Text, nullable=False),
    Column("depth", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("guaranteed", Boolean, nullable=False),
    Column("award", Text, nullable=False),
    Column("renewal", Text),  # the award of the next term, granted and not yet begun
    Column("starts_at_ms", BigInteger, nullable=False),
    Column("ends_at_ms", BigInteger, nullable=False),
    Column("refilled_at_ms", BigInteger),
    Column("policy_version", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Index(None, "parent_id"),
    Index(None, "root_id"),
)

members = Table(
    "members",
    metadata,
    Column("allocation_id", Text, ForeignKey("allocations.id"), primary_key=True),
    Column("person", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("joined_at_ms", BigInteger, nullable=False),
    # What a lead lets this member run at once, and spend in all; None: as much as everybody.
    Column("servers_max", Integer),
    Column("cores_max", Integer),
    Column("gpus_max", Integer),
    Column("microcredits_max", BigInteger),
    Index(None, "person"),
)

# A place offered to a person, who takes or refuses it.
invitations = Table(
    "invitations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("allocation_id", Text, ForeignKey("allocations.id"), nullable=False),
    Column("person", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("invited_by", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("ends_at_ms", BigInteger, nullable=False),
    Column("answered_at_ms", BigInteger),
    # What the place lets them run at once, and spend in all, as of a member.
    Column("servers_max", Integer),
    Column("cores_max", Integer),
    Column("gpus_max", Integer),
    Column("microcredits_max", BigInteger),
    Index(
        "uq_invitations_pending",
        "allocation_id",
        "person",
        unique=True,
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
    Index(None, "person"),
)

# Exceptions from a limit, for a person or an allocation: attributed, and never for ever.
overrides = Table(
    "overrides",
    metadata,
    Column("id", Text, primary_key=True),
    Column("subject_kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("limits", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("ends_at_ms", BigInteger, nullable=False),
    Column("revoked_at_ms", BigInteger),
    Column("revoked_by", Text),
    Index(None, "subject_kind", "subject"),
)

# Who has been here, and where mail for them goes. Who they are says the provider that they sign in at, by issuer and
# subject; institution and country are for reports, and decide nothing.
people = Table(
    "people",
    metadata,
    Column("name", Text, primary_key=True),
    Column("email", Text),
    Column("first_seen_at_ms", BigInteger, nullable=False),
    Column("issuer", Text),
    Column("subject", Text),
    Column("full_name", Text),
    Column("institution", Text),
    Column("country", Text),
    Column("roles", Text),  # JSON: what the hub let them be when they last signed in
    UniqueConstraint("issuer", "subject"),
)

# Who may start nothing for a while, by whose decision and why; lifted ones stay, as the record of it.
suspensions = Table(
    "suspensions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("person", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    # When what they run is stopped.
    Column("stops_at_ms", BigInteger, nullable=False),
    Column("lifted_at_ms", BigInteger),
    Column("lifted_by", Text),
    Index(
        "uq_suspensions_in_force",
        "person",
        unique=True,
        sqlite_where=text("lifted_at_ms IS NULL"),
        postgresql_where=text("lifted_at_ms IS NULL"),
    ),
)

publications = Table(
    "publications",
    metadata,
    Column("id", Text, primary_key=True),
    Column("doi", Text, unique=True),
    Column("bibcode", Text, unique=True),
    Column("title", Text, nullable=False),
    Column("added_by", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    CheckConstraint("doi IS NOT NULL OR bibcode IS NOT NULL", name="identified"),
)

publication_links = Table(
    "publication_links",
    metadata,
    Column("publication_id", Text, ForeignKey("publications.id"), primary_key=True),
    Column("allocation_id", Text, ForeignKey("allocations.id"), primary_key=True),
    Column("linked_by", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Index(None, "allocation_id"),
)

mails = Table(
    "mails",
    metadata,
    Column("id", Text, primary_key=True),
    Column("person", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("sent_at_ms", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("next_try_at_ms", BigInteger, nullable=False),
    Column("last_error", Text),
    Index(None, "person", "sent_at_ms"),
)

# The outbox: what people are told, written in the transaction of what happened. The unique columns make a notice
# that is written twice one notice.
notices = Table(
    "notices",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("person", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("threshold", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("read_at_ms", BigInteger),
    Column("mail_id", Text, ForeignKey("mails.id")),
    UniqueConstraint("person", "kind", "subject", "threshold"),
    Index(
        "ix_notices_pending",
        "person",
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
    Index(None, "mail_id"),
    sqlite_autoincrement=True,
)

# How somebody wants a kind of notice delivered, where they chose otherwise than the policy.
notice_choices = Table(
    "notice_choices",
    metadata,
    Column("person", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("delivery", Text, nullable=False),
)

# Addresses that do one thing for one person without a sign-in, by whoever knows their token: a calendar to read, mail
# to turn off. Another token, or none, revokes them.
secret_links = Table(
    "secret_links",
    metadata,
    Column("token", Text, primary_key=True),
    Column("person", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    UniqueConstraint("person", "purpose"),
)

# What the journal says, summed: the row that admission locks. Every charge counts at each ancestor.
balances = Table(
    "balances",
    metadata,
    Column("allocation_id", Text, ForeignKey("allocations.id"), primary_key=True),
    Column("unit", Text, primary_key=True),
    Column("limit_amount", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("posted", BigInteger, nullable=False),
    CheckConstraint("limit_amount >= 0", name="limit_not_negative"),
    CheckConstraint("held >= 0", name="held_not_negative"),
    CheckConstraint("posted >= 0", name="posted_not_negative"),
)

# Append-only (triggers refuse update and delete). A row moves an amount from one account of an allocation to another,
# so that each transaction balances by construction.
journal = Table(
    "journal",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("transaction_id", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("allocation_id", Text, ForeignKey("allocations.id"), nullable=False),
    Column("unit", Text, nullable=False),
    Column("debit", Text, nullable=False),
    Column("credit", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("lease_id", Text),
    Column("actor", Text, nullable=False),
    Column("quantities", Text),
    Column("memo", Text),
    Column("policy_version", Text, nullable=False),
    CheckConstraint("amount > 0", name="amount_positive"),
    Index(None, "allocation_id", "id"),
    Index(None, "lease_id"),
    # What changed limits: few among the many entries of an allocation.
    Index(
        "ix_journal_limits",
        "allocation_id",
        sqlite_where=text("debit = 'budget' OR credit = 'budget'"),
        postgresql_where=text("debit = 'budget' OR credit = 'budget'"),
    ),
    # What was kept in somebody's home.
    Index(
        "ix_journal_storage",
        "actor",
        "id",
        sqlite_where=text("kind = 'storage'"),
        postgresql_where=text("kind = 'storage'"),
    ),
    # The charges alone: the latest of a tree are at the ends of its allocations' parts of it.
    Index(
        "ix_journal_charges",
        "allocation_id",
        "id",
        sqlite_where=text("debit = 'posted' OR credit = 'posted'"),
        postgresql_where=text("debit = 'posted' OR credit = 'posted'"),
    ),
    sqlite_autoincrement=True,
)

# What was charged by UTC day, refunds taken off: sums of the journal, which triggers keep with each of its entries.
daily_use = Table(
    "daily_use",
    metadata,
    Column("day_ms", BigInteger, primary_key=True, autoincrement=False),  # the day's first millisecond
    Column("allocation_id", Text, primary_key=True),
    Column("person", Text, primary_key=True),
    Column("microcredits", BigInteger, nullable=False),
    Column("storage_microcredits", BigInteger, nullable=False),  # of them
    Column("core_seconds", BigInteger, nullable=False),
    Column("gib_seconds", BigInteger, nullable=False),
    Column("gpu_seconds", BigInteger, nullable=False),
    Column("byte_days", BigInteger, nullable=False),  # what was stored, bytes by the days that they were charged for
    Index(None, "allocation_id", "day_ms"),
    sqlite_with_rowid=False,
)

leases = Table(
    "leases",
    metadata,
    Column("id", Text, primary_key=True),
    Column("allocation_id", Text, ForeignKey("allocations.id"), nullable=False),
    Column("root_id", Text, nullable=False),
    Column("person", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("size", Text, nullable=False),
    Column("image", Text, nullable=False),
    Column("server_name", Text, nullable=False),
    Column("cores", Integer, nullable=False),
    Column("memory_gib", Integer, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("gpu_type", Text),
    Column("microcredits_per_second", BigInteger, nullable=False),
    Column("idle_seconds", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("acquired_at_ms", BigInteger, nullable=False),
    Column("started_at_ms", BigInteger),
    Column("ends_at_ms", BigInteger, nullable=False),
    Column("latest_end_at_ms", BigInteger, nullable=False),
    Column("seen_at_ms", BigInteger),
    Column("missing_since_ms", BigInteger),
    Column("ended_at_ms", BigInteger),
    Column("end_reason", Text),
    # When the journal last moved for this lease: its times never run backwards.
    Column("moved_at_ms", BigInteger, nullable=False, server_default="0"),
    # When the person last asked to keep the server though nobody uses it.
    Column("kept_at_ms", BigInteger),
    Index(
        "ix_leases_open",
        "root_id",
        sqlite_where=Column("state") == "open",
        postgresql_where=Column("state") == "open",
    ),
    Index(None, "person", "acquired_at_ms"),
)

# A lease's holds tile its running time: each covers [from_second, to_second) after the start and ends exactly once.
holds = Table(
    "holds",
    metadata,
    Column("lease_id", Text, ForeignKey("leases.id"), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("unit", Text, primary_key=True),
    Column("per_second", BigInteger, nullable=False),
    Column("from_second", BigInteger, nullable=False),
    Column("to_second", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("charged", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Index(
        "ix_holds_open",
        "lease_id",
        sqlite_where=text("state = 'open'"),
        postgresql_where=text("state = 'open'"),
    ),
    CheckConstraint("charged >= 0 AND charged <= amount", name="charged_within_hold"),
    CheckConstraint("amount = per_second * (to_second - from_second)", name="amount_is_rate_by_time"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("caller", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_hash", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Index(None, "created_at_ms"),
)

requests = Table(
    "requests",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("applicant", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("justification", Text, nullable=False),
    Column("credits", BigInteger, nullable=False),
    Column("asked", Text, nullable=False, server_default="{}"),  # beyond credits
    Column("awarded", Text),  # what was given, when decided
    Column("state", Text, nullable=False),
    Column("allocation_id", Text, ForeignKey("allocations.id")),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Index(None, "state"),
    Index(None, "applicant"),
    Index(None, "allocation_id"),
)

reviews = Table(
    "reviews",
    metadata,
    Column("request_id", Text, ForeignKey("requests.id"), primary_key=True),
    Column("reviewer", Text, primary_key=True),
    Column("score", Integer),
    Column("conflict", Boolean, nullable=False),
    Column("comment", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)

# Who was last seen when with the role of a reviewer, to be told of requests that wait.
reviewers = Table(
    "reviewers",
    metadata,
    Column("person", Text, primary_key=True),
    Column("seen_at_ms", BigInteger, nullable=False),
)

# Append-only (triggers refuse update and delete).
audit = Table(
    "audit",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("policy_version", Text, nullable=False),
    # One for each filter, each in the order in which the log is read.
    Index(None, "at_ms", "id"),
    Index(None, "actor", "at_ms", "id"),
    Index(None, "action", "at_ms", "id"),
    Index(None, "subject", "at_ms", "id"),
    sqlite_autoincrement=True,
)

# Runs of one notebook that were submitted together, a row of parameters for each. `varied` is a JSON list of the names
# of the parameters that its rows give, `parameters` what they have in common.
sweeps = Table(
    "sweeps",
    metadata,
    Column("id", Text, primary_key=True),
    Column("person", Text, nullable=False),
    Column("allocation_id", Text, ForeignKey("allocations.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("size", Text, nullable=False),
    Column("image", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("varied", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("at_once", Integer),
    Column("max_seconds", Integer, nullable=False),
    Column("waiting_reason", Text),
    Column("submitted_at_ms", BigInteger, nullable=False),
    Column("cancelled_at_ms", BigInteger),
    # As of each of its runs.
    Column("retries", Integer, nullable=False, server_default="0"),
    Column("source", Text),
    Column("environment", Text),
    Column("output", Text),
    Column("waits_for", Text),
    Index(None, "person", "submitted_at_ms"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("person", Text, nullable=False),
    Column("allocation_id", Text, ForeignKey("allocations.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("size", Text, nullable=False),
    Column("image", Text, nullable=False),
    Column("cores", Integer, nullable=False),
    Column("memory_gib", Integer, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("gpu_type", Text),
    Column("parameters", Text, nullable=False),
    Column("max_seconds", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("waiting_reason", Text),
    Column("cancel_requested", Boolean, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("executor", Text),
    Column("lease_id", Text, ForeignKey("leases.id")),
    Column("cells_done", Integer, nullable=False),
    Column("cells_total", Integer, nullable=False),
    Column("current_cell", Integer),
    Column("error", Text),
    Column("submitted_at_ms", BigInteger, nullable=False),
    Column("started_at_ms", BigInteger),
    Column("ended_at_ms", BigInteger),
    Column("end_code", Text),
    Column("provenance", Text),
    Column("environment", Text),
    Column("output", Text),
    Column("replay_of", Text),
    Column("waits_for", Text),  # what the runs that it waits for must have come to; None: it waits for none
    # How often a run whose notebook fails is tried again, how often it has been, and what those attempts were charged.
    Column("retries", Integer, nullable=False, server_default="0"),
    Column("retried", Integer, nullable=False, server_default="0"),
    Column("charged_before_microcredits", BigInteger, nullable=False, server_default="0"),
    Column("source", Text),  # JSON: where the notebook came from; nothing of it is known of the older ones
    Column("sweep_id", Text, ForeignKey("sweeps.id")),
    Column("sweep_row", Integer),
    # The run that was queued in the place of this one, which had failed.
    Column("retried_as", Text),
    # What the notebook recorded: a JSON object, bounded.
    Column("recorded", Text),
    # Lists are of single runs, or of a sweep.
    Index(None, "person", "sweep_id", "submitted_at_ms"),
    Index(None, "state"),
    Index(None, "sweep_id", "sweep_row"),
    # Whether any run of a sweep is in a state, however many are in others.
    Index(None, "sweep_id", "state"),
    # The first that waits of each sweep, however many have ended.
    Index(
        "ix_runs_queue",
        "sweep_id",
        "submitted_at_ms",
        "sweep_row",
        sqlite_where=text("state = 'queued'"),
        postgresql_where=text("state = 'queued'"),
    ),
)

# What people's runs may be given: the value is encrypted with a key that is not in the database.
secrets = Table(
    "secrets",
    metadata,
    Column("person", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("changed_at_ms", BigInteger, nullable=False),
    Column("used_at_ms", BigInteger),
)

# A run or a sweep that waits, and each run or sweep that it waits for: of two kinds each, which no foreign key can say.
chain_links = Table(
    "chain_links",
    metadata,
    Column("waiting_id", Text, primary_key=True),
    Column("awaited_id", Text, primary_key=True),
    Index(None, "awaited_id"),
)

# A notebook that is submitted at the times that a cron expression names in a time zone.
schedules = Table(
    "schedules",
    metadata,
    Column("id", Text, primary_key=True),
    Column("person", Text, nullable=False),
    Column("allocation_id", Text, ForeignKey("allocations.id"), nullable=False),
    Column("title", Text, nullable=False),
    Column("notebook_name", Text, nullable=False),
    Column("size", Text, nullable=False),
    Column("image", Text),  # None: the default of the day
    Column("parameters", Text, nullable=False),
    Column("max_seconds", Integer),  # None: the default of the day
    Column("cron", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("missed", Text, nullable=False),
    Column("overlap", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("pause_reason", Text),
    Column("refusals", Integer, nullable=False),  # in a row
    Column("next_at_ms", BigInteger),  # None while it is paused
    Column("created_at_ms", BigInteger, nullable=False),
    # As of each of its runs.
    Column("retries", Integer, nullable=False, server_default="0"),
    Column("source", Text),
    Column("environment", Text),
    Column("output", Text),
    Index(None, "person", "created_at_ms"),
    Index(None, "state", "next_at_ms"),
)

# What became of each time of a schedule; the key lets each be dealt with once.
schedule_times = Table(
    "schedule_times",
    metadata,
    Column("schedule_id", Text, ForeignKey("schedules.id"), primary_key=True),
    Column("planned_at_ms", BigInteger, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("run_id", Text, ForeignKey("runs.id")),
    Column("detail", Text),
    Index(None, "run_id"),
)

# Notebooks that people have brought and not submitted yet; their contents lie with the files of runs.
notebook_drafts = Table(
    "notebook_drafts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("person", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("made_at_ms", BigInteger, nullable=False),
    Index(None, "person", "made_at_ms"),
    Index(None, "made_at_ms"),
)

# One tree (or prefix of a bucket) of a class that belongs to a person or to an allocation: what it took when it was
# last measured, and the limit in force. The number is a file system's own for it (a project of XFS).
storage_areas = Table(
    "storage_areas",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("storage_class", Text, nullable=False),
    Column("person", Text),
    Column("allocation_id", Text, ForeignKey("allocations.id")),
    Column("place", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("measured_at_ms", BigInteger),
    Column("bytes", BigInteger),
    Column("files", BigInteger),
    Column("passed_over", BigInteger),  # what could not be looked into
    Column("largest", Text),
    Column("over_since_ms", BigInteger),  # beyond its limit in every measure since
    Column("limit_bytes", BigInteger),  # in force on the file system; None: there is none
    Column("problem", Text),  # why it could not be measured or limited the last time
    UniqueConstraint("storage_class", "place"),
    UniqueConstraint("storage_class", "person"),
    UniqueConstraint("storage_class", "allocation_id"),
    CheckConstraint("(person IS NULL) <> (allocation_id IS NULL)", name="of_a_person_or_an_allocation"),
    sqlite_autoincrement=True,
)

# What an area took on a day (UTC; days since the epoch). When the day is over it is assessed, once: who pays, at which
# price, how much. From then on only what is charged of it grows, until nothing is owed any more.
storage_days = Table(
    "storage_days",
    metadata,
    Column("area_id", Text, ForeignKey("storage_areas.id"), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("bytes", BigInteger, nullable=False),
    Column("files", BigInteger),
    Column("allocation_id", Text, ForeignKey("allocations.id")),  # that pays; None: nobody does
    Column("microcredits_per_gb_day", BigInteger),
    Column("due_microcredits", BigInteger),
    Column("charged_microcredits", BigInteger, nullable=False),
    Column("policy_version", Text),
    CheckConstraint("bytes >= 0", name="bytes_not_negative"),
    CheckConstraint(
        "charged_microcredits >= 0 AND charged_microcredits <= coalesce(due_microcredits, 0)", name="charged_within_due"
    ),
    Index(
        "ix_storage_days_open",
        "day",
        sqlite_where=text("due_microcredits IS NULL"),
        postgresql_where=text("due_microcredits IS NULL"),
    ),
    Index(
        "ix_storage_days_owed",
        "allocation_id",
        sqlite_where=text("charged_microcredits < due_microcredits"),
        postgresql_where=text("charged_microcredits < due_microcredits"),
    ),
    Index(None, "allocation_id"),
)

# Which transactions of the journal charged which days. Append-only (triggers refuse update and delete).
storage_charges = Table(
    "storage_charges",
    metadata,
    Column("area_id", Text, primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("transaction_id", Text, primary_key=True),
    Column("amount", BigInteger, nullable=False),
    ForeignKeyConstraint(["area_id", "day"], ["storage_days.area_id", "storage_days.day"]),
    CheckConstraint("amount > 0", name="amount_positive"),
    Index(None, "transaction_id"),
)

# A purge of all areas of a class at a moment (as_of_ms), which an administrator, or the calendar, has begun; by the
# rules of the class, or (kind "ended") of those areas whole whose owner's allocation ended long ago.
# `confirmed_…`: what somebody let it delete beyond the ceiling; `stopped_…`: until it is resumed.
purge_runs = Table(
    "purge_runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("storage_class", Text, nullable=False),
    Column("as_of_ms", BigInteger, nullable=False),
    Column("dry_run", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("made_by", Text, nullable=False),
    Column("files", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("confirmed_by", Text),
    Column("confirmed_at_ms", BigInteger),
    Column("stopped_by", Text),
    Column("stopped_at_ms", BigInteger),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Index(None, "created_at_ms", "id"),
    Index(None, "state"),
)

# A tree (or objects beneath a prefix) that was archived: before a purge, or because its allocation has ended. `sha256`
# is that of its archive.json; `reminded_days`: which reminder before its end was the last that was sent.
archives = Table(
    "archives",
    metadata,
    Column("id", Text, primary_key=True),
    Column("area_id", Text, ForeignKey("storage_areas.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("files", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", Text),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("keep_until_ms", BigInteger),
    Column("reminded_days", Integer),
    Index(None, "area_id", "created_at_ms"),
    Index(None, "state", "keep_until_ms"),
)

# What a run does to one area. `position`: entries of the verified archive that deletion has done with, in their order;
# `again_at_ms`: when it is tried again after a problem.
purges = Table(
    "purges",
    metadata,
    Column("id", Text, primary_key=True),
    Column("run_id", Text, ForeignKey("purge_runs.id"), nullable=False),
    Column("area_id", Text, ForeignKey("storage_areas.id"), nullable=False),
    Column("dry_run", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("files", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("folders", BigInteger, nullable=False),
    Column("plan_sha256", Text),
    Column("summary", Text),
    Column("window_ends_at_ms", BigInteger),
    Column("reminded_days", Integer),
    Column("reminded_at_ms", BigInteger),
    Column("archive_id", Text, ForeignKey("archives.id")),
    Column("position", BigInteger, nullable=False),
    Column("deleted_files", BigInteger, nullable=False),
    Column("deleted_bytes", BigInteger, nullable=False),
    Column("left_files", BigInteger, nullable=False),
    Column("problem", Text),
    Column("again_at_ms", BigInteger),
    Column("changed_at_ms", BigInteger, nullable=False),
    UniqueConstraint("run_id", "area_id"),
    Index(None, "area_id", "changed_at_ms"),
    Index(None, "state", "changed_at_ms"),
    # An area has one purge at a time; what only looks is in nobody's way.
    Index(
        "uq_purges_under_way",
        "area_id",
        unique=True,
        sqlite_where=text("NOT dry_run AND state NOT IN ('done', 'cancelled', 'failed')"),
        postgresql_where=text("NOT dry_run AND state NOT IN ('done', 'cancelled', 'failed')"),
    ),
)

# What is not purged until a moment: a file, or a folder with all in it, by its path in the area ("": all of it).
exemptions = Table(
    "exemptions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("area_id", Text, ForeignKey("storage_areas.id"), nullable=False),
    Column("folder", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("asked_at_ms", BigInteger, nullable=False),
    Column("decided_by", Text),
    Column("decided_at_ms", BigInteger),
    Column("answer", Text, nullable=False),
    Index(None, "area_id", "state", "until_ms"),
    Index(None, "state", "asked_at_ms"),
)

# What somebody wants back of an archive: paths as JSON, [] for all.
restores = Table(
    "restores",
    metadata,
    Column("id", Text, primary_key=True),
    Column("archive_id", Text, ForeignKey("archives.id"), nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("asked_at_ms", BigInteger, nullable=False),
    Column("paths", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("files", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("problem", Text),
    Column("changed_at_ms", BigInteger, nullable=False),
    Index(None, "archive_id", "asked_at_ms"),
    Index(None, "state", "asked_at_ms"),
)

# Areas whose owner has no allocation any more that goes on: a row is there until one comes back. `seen_at_ms`: since
# when we know; `archive_at_ms`: when owners were told that it is archived; `limit_bytes`: what it may take until then.
storage_ends = Table(
    "storage_ends",
    metadata,
    Column("area_id", Text, ForeignKey("storage_areas.id"), primary_key=True),
    Column("ended_at_ms", BigInteger, nullable=False),
    Column("seen_at_ms", BigInteger, nullable=False),
    Column("archive_at_ms", BigInteger, nullable=False),
    Column("limit_bytes", BigInteger),
    Column("reminded_days", Integer),
)

# How old a lead lets files of an allocation's scratch become, until a moment; the one made last counts.
scratch_leases = Table(
    "scratch_leases",
    metadata,
    Column("id", Text, primary_key=True),
    Column("area_id", Text, ForeignKey("storage_areas.id"), nullable=False),
    Column("age_days", Integer, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("made_by", Text, nullable=False),
    Column("made_at_ms", BigInteger, nullable=False),
    Column("ended_by", Text),
    Column("ended_at_ms", BigInteger),
    Index(None, "area_id", "until_ms"),
)

# The switch that stops every purge; one row at most, there while it is on.
purge_stop = Table(
    "purge_stop",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("stopped_by", Text, nullable=False),
    Column("stopped_at_ms", BigInteger, nullable=False),
    Column("why", Text, nullable=False),
    CheckConstraint("number = 1", name="one_row"),
)

# Which process leads a duty, and when it last did it.
duties = Table(
    "duties",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
    Column("beat_at_ms", BigInteger, nullable=False),
)


def paths_of(allocation_ids: BindParameter[Any]) -> CTE:
    """Return the ids of allocations (a list that is bound when the statement runs) and of all above them."""
    up = (
        select(allocations.c.id, allocations.c.parent_id)
        .where(allocations.c.id.in_(allocation_ids))
        .cte("up", recursive=True)
    )
    return up.union(select(allocations.c.id, allocations.c.parent_id).where(allocations.c.id == up.c.parent_id))


def subtrees_of(tops: ColumnElement[bool]) -> CTE:
    """Return the ids of the allocations that fulfil a condition and of all below them."""
    down = select(allocations.c.id).where(tops).cte("down", recursive=True)
    below = allocations.alias("below")
    return down.union(select(below.c.id).where(below.c.parent_id == down.c.id))


def below_each_of(allocation_ids: BindParameter[Any]) -> CTE:
    """Return the ids of all below each of several allocations (a list that is bound), itself first, as `top`, `id`."""
    down = (
        select(allocations.c.id.label("top"), allocations.c.id)
        .where(allocations.c.id.in_(allocation_ids))
        .cte("down", recursive=True)
    )
    return down.union_all(select(down.c.top, allocations.c.id).where(allocations.c.parent_id == down.c.id))
