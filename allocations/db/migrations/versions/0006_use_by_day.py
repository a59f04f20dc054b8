"""The use by day, kept by triggers; indexes by which pages find what they show among a million entries

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

from allocations.db.daily_use import fill, keep

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "daily_use",
        sa.Column("day_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("allocation_id", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("microcredits", sa.BigInteger(), nullable=False),
        sa.Column("storage_microcredits", sa.BigInteger(), nullable=False),
        sa.Column("core_seconds", sa.BigInteger(), nullable=False),
        sa.Column("gib_seconds", sa.BigInteger(), nullable=False),
        sa.Column("gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("byte_days", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day_ms", "allocation_id", "person", name=op.f("pk_daily_use")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_daily_use_allocation_id_day_ms"), "daily_use", ["allocation_id", "day_ms"])
    op.create_index(
        "ix_journal_limits",
        "journal",
        ["allocation_id"],
        sqlite_where=sa.text("debit = 'budget' OR credit = 'budget'"),
        postgresql_where=sa.text("debit = 'budget' OR credit = 'budget'"),
    )
    op.drop_index(op.f("ix_audit_subject"), "audit")
    op.create_index(op.f("ix_audit_at_ms_id"), "audit", ["at_ms", "id"])
    for name in ("actor", "action", "subject"):
        op.create_index(op.f(f"ix_audit_{name}_at_ms_id"), "audit", [name, "at_ms", "id"])
    dialect = op.get_bind().dialect.name
    op.execute(fill(dialect))
    for statement in keep(dialect):
        op.execute(statement)
