"""Sweeps with all that single runs have, and chains of runs and sweeps

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    with op.batch_alter_table("sweeps", schema=None) as batch_op:
        batch_op.add_column(sa.Column("retries", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("source", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("environment", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("output", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("waits_for", sa.Text(), nullable=True))
    op.create_index(op.f("ix_runs_sweep_id_state"), "runs", ["sweep_id", "state"])
    op.create_table(
        "chain_links",
        sa.Column("waiting_id", sa.Text(), nullable=False),
        sa.Column("awaited_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("waiting_id", "awaited_id", name=op.f("pk_chain_links")),
    )
    op.create_index(op.f("ix_chain_links_awaited_id"), "chain_links", ["awaited_id"])
    op.execute("INSERT INTO chain_links (waiting_id, awaited_id) SELECT run_id, awaited_run_id FROM run_waits")
    op.drop_table("run_waits")
