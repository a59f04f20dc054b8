"""Retries of runs whose notebook failed, where notebooks came from, notebooks that are not submitted yet

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("retries", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("retried", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(
            sa.Column("charged_before_microcredits", sa.BigInteger(), server_default="0", nullable=False)
        )
        batch_op.add_column(sa.Column("source", sa.Text(), nullable=True))
    op.create_table(
        "notebook_drafts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("made_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notebook_drafts")),
    )
    op.create_index(op.f("ix_notebook_drafts_made_at_ms"), "notebook_drafts", ["made_at_ms"])
    op.create_index(op.f("ix_notebook_drafts_person_made_at_ms"), "notebook_drafts", ["person", "made_at_ms"])
