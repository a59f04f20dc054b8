"""The tables. Times are milliseconds since the epoch (UTC), money is microcredits, both as 64-bit integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
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
    # What a lead lets this member run at once; None: as much as everybody.
    Column("servers_max", Integer),
    Column("cores_max", Integer),
    Column("gpus_max", Integer),
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
    # What the place lets them run at once, as of a member.
    Column("servers_max", Integer),
    Column("cores_max", Integer),
    Column("gpus_max", Integer),
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
    UniqueConstraint("issuer", "subject"),
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
    sqlite_autoincrement=True,
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
    Index(None, "subject"),
    sqlite_autoincrement=True,
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
    Index(None, "person", "submitted_at_ms"),
    Index(None, "state"),
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
