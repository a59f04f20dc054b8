"""Runs that wait for other runs, and schedules that submit runs at their times

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("runs", sa.Column("waits_for", sa.Text()))
    op.create_table(
        "run_waits",
        sa.Column("run_id", sa.Text(), sa.ForeignKey("runs.id", name="fk_run_waits_run_id"), nullable=False),
        sa.Column(
            "awaited_run_id", sa.Text(), sa.ForeignKey("runs.id", name="fk_run_waits_awaited_run_id"), nullable=False
        ),
        sa.PrimaryKeyConstraint("run_id", "awaited_run_id", name="pk_run_waits"),
    )
    op.create_index("ix_run_waits_awaited_run_id", "run_waits", ["awaited_run_id"])
    op.create_table(
        "schedules",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column(
            "allocation_id",
            sa.Text(),
            sa.ForeignKey("allocations.id", name="fk_schedules_allocation_id"),
            nullable=False,
        ),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("notebook_name", sa.Text(), nullable=False),
        sa.Column("size", sa.Text(), nullable=False),
        sa.Column("image", sa.Text()),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("max_seconds", sa.Integer()),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("missed", sa.Text(), nullable=False),
        sa.Column("overlap", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("pause_reason", sa.Text()),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("next_at_ms", sa.BigInteger()),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_schedules"),
    )
    op.create_index("ix_schedules_person_created_at_ms", "schedules", ["person", "created_at_ms"])
    op.create_index("ix_schedules_state_next_at_ms", "schedules", ["state", "next_at_ms"])
    op.create_table(
        "schedule_times",
        sa.Column(
            "schedule_id",
            sa.Text(),
            sa.ForeignKey("schedules.id", name="fk_schedule_times_schedule_id"),
            nullable=False,
        ),
        sa.Column("planned_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), sa.ForeignKey("runs.id", name="fk_schedule_times_run_id")),
        sa.Column("detail", sa.Text()),
        sa.PrimaryKeyConstraint("schedule_id", "planned_at_ms", name="pk_schedule_times"),
    )
    op.create_index("ix_schedule_times_run_id", "schedule_times", ["run_id"])
