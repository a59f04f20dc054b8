"""How runs ended, their provenance, what they are given and where their output goes; people's secrets

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("end_code", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("provenance", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("environment", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("output", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("replay_of", sa.Text(), nullable=True))

    op.create_table(
        "secrets",
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("person", "name", name=op.f("pk_secrets")),
    )
