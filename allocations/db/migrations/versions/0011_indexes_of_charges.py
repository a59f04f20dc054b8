"""Indexes of the charges of each allocation and of storage, by which pages find the latest of a tree and of a person

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_index(
        "ix_journal_charges",
        "journal",
        ["allocation_id", "id"],
        sqlite_where=sa.text("debit = 'posted' OR credit = 'posted'"),
        postgresql_where=sa.text("debit = 'posted' OR credit = 'posted'"),
    )
    op.create_index(
        "ix_journal_storage",
        "journal",
        ["actor", "id"],
        sqlite_where=sa.text("kind = 'storage'"),
        postgresql_where=sa.text("kind = 'storage'"),
    )
