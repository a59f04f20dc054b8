"""Who people are at the provider that they sign in at, and where they work

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("people", schema=None) as batch_op:
        for name in ("issuer", "subject", "full_name", "institution", "country"):
            batch_op.add_column(sa.Column(name, sa.Text(), nullable=True))
        batch_op.create_unique_constraint(batch_op.f("uq_people_issuer_subject"), ["issuer", "subject"])
