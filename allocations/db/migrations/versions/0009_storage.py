"""What areas of storage take, and what is charged for it

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

from allocations.db.migrations.triggers import append_only

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "storage_areas",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("storage_class", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=True),
        sa.Column("allocation_id", sa.Text(), nullable=True),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("measured_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("files", sa.BigInteger(), nullable=True),
        sa.Column("passed_over", sa.BigInteger(), nullable=True),
        sa.Column("largest", sa.Text(), nullable=True),
        sa.Column("over_since_ms", sa.BigInteger(), nullable=True),
        sa.Column("limit_bytes", sa.BigInteger(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(person IS NULL) <> (allocation_id IS NULL)", name=op.f("ck_storage_areas_of_a_person_or_an_allocation")
        ),
        sa.ForeignKeyConstraint(["allocation_id"], ["allocations.id"], name=op.f("fk_storage_areas_allocation_id")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_storage_areas")),
        sa.UniqueConstraint("id", name=op.f("uq_storage_areas_id")),
        sa.UniqueConstraint("storage_class", "place", name=op.f("uq_storage_areas_storage_class_place")),
        sa.UniqueConstraint("storage_class", "person", name=op.f("uq_storage_areas_storage_class_person")),
        sa.UniqueConstraint(
            "storage_class", "allocation_id", name=op.f("uq_storage_areas_storage_class_allocation_id")
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "storage_days",
        sa.Column("area_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=True),
        sa.Column("allocation_id", sa.Text(), nullable=True),
        sa.Column("microcredits_per_gb_day", sa.BigInteger(), nullable=True),
        sa.Column("due_microcredits", sa.BigInteger(), nullable=True),
        sa.Column("charged_microcredits", sa.BigInteger(), nullable=False),
        sa.Column("policy_version", sa.Text(), nullable=True),
        sa.CheckConstraint("bytes >= 0", name=op.f("ck_storage_days_bytes_not_negative")),
        sa.CheckConstraint(
            "charged_microcredits >= 0 AND charged_microcredits <= coalesce(due_microcredits, 0)",
            name=op.f("ck_storage_days_charged_within_due"),
        ),
        sa.ForeignKeyConstraint(["area_id"], ["storage_areas.id"], name=op.f("fk_storage_days_area_id")),
        sa.ForeignKeyConstraint(["allocation_id"], ["allocations.id"], name=op.f("fk_storage_days_allocation_id")),
        sa.PrimaryKeyConstraint("area_id", "day", name=op.f("pk_storage_days")),
    )
    with op.batch_alter_table("storage_days", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_storage_days_allocation_id"), ["allocation_id"], unique=False)
        for name, column, where in (
            ("ix_storage_days_open", "day", "due_microcredits IS NULL"),
            ("ix_storage_days_owed", "allocation_id", "charged_microcredits < due_microcredits"),
        ):
            batch_op.create_index(
                name, [column], unique=False, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
            )
    op.create_table(
        "storage_charges",
        sa.Column("area_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("transaction_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_storage_charges_amount_positive")),
        sa.ForeignKeyConstraint(
            ["area_id", "day"],
            ["storage_days.area_id", "storage_days.day"],
            name=op.f("fk_storage_charges_area_id_day"),
        ),
        sa.PrimaryKeyConstraint("area_id", "day", "transaction_id", name=op.f("pk_storage_charges")),
    )
    with op.batch_alter_table("storage_charges", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_storage_charges_transaction_id"), ["transaction_id"], unique=False)
    for statement in append_only("storage_charges", op.get_bind().dialect.name):
        op.execute(statement)
