"""Sweeps: runs that are submitted together, what notebooks recorded, and the queue's index

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("allocation_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("varied", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("at_once", sa.Integer(), nullable=True),
        sa.Column("max_seconds", sa.Integer(), nullable=False),
        sa.Column("waiting_reason", sa.Text(), nullable=True),
        sa.Column("submitted_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("cancelled_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["allocation_id"], ["allocations.id"], name=op.f("fk_sweeps_allocation_id_allocations")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
    )
    with op.batch_alter_table("sweeps", schema=None) as batch_op:
        batch_op.create_index("ix_sweeps_person_submitted_at_ms", ["person", "submitted_at_ms"], unique=False)
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("sweep_id", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("sweep_row", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("retried_as", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("recorded", sa.Text(), nullable=True))
        batch_op.create_foreign_key(op.f("fk_runs_sweep_id_sweeps"), "sweeps", ["sweep_id"], ["id"])
        batch_op.drop_index("ix_runs_person_submitted_at_ms")
        batch_op.create_index("ix_runs_person_sweep_id_submitted_at_ms", ["person", "sweep_id", "submitted_at_ms"])
        batch_op.create_index("ix_runs_sweep_id_sweep_row", ["sweep_id", "sweep_row"])
    op.create_index(
        "ix_runs_queue",
        "runs",
        ["sweep_id", "submitted_at_ms", "sweep_row"],
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
