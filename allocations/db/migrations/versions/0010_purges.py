"""Purges, exemptions from them, archives, and what is asked back of these

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "purge_runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("storage_class", sa.Text(), nullable=False),
        sa.Column("as_of_ms", sa.BigInteger(), nullable=False),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("made_by", sa.Text(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("confirmed_by", sa.Text(), nullable=True),
        sa.Column("confirmed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("stopped_by", sa.Text(), nullable=True),
        sa.Column("stopped_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_purge_runs")),
    )
    with op.batch_alter_table("purge_runs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_purge_runs_created_at_ms_id"), ["created_at_ms", "id"], unique=False)
        batch_op.create_index(batch_op.f("ix_purge_runs_state"), ["state"], unique=False)

    op.create_table(
        "purge_stop",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("stopped_by", sa.Text(), nullable=False),
        sa.Column("stopped_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.CheckConstraint("number = 1", name=op.f("ck_purge_stop_one_row")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_purge_stop")),
    )
    op.create_table(
        "archives",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("area_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("keep_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("reminded_days", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["area_id"], ["storage_areas.id"], name=op.f("fk_archives_area_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_archives")),
    )
    with op.batch_alter_table("archives", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_archives_area_id_created_at_ms"), ["area_id", "created_at_ms"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_archives_state_keep_until_ms"), ["state", "keep_until_ms"], unique=False)

    op.create_table(
        "exemptions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("area_id", sa.Text(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("asked_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["area_id"], ["storage_areas.id"], name=op.f("fk_exemptions_area_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exemptions")),
    )
    with op.batch_alter_table("exemptions", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_exemptions_area_id_state_until_ms"), ["area_id", "state", "until_ms"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_exemptions_state_asked_at_ms"), ["state", "asked_at_ms"], unique=False)

    op.create_table(
        "purges",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("area_id", sa.Text(), nullable=False),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("folders", sa.BigInteger(), nullable=False),
        sa.Column("plan_sha256", sa.Text(), nullable=True),
        sa.Column("summary", sa.Text(), nullable=True),
        sa.Column("window_ends_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("reminded_days", sa.Integer(), nullable=True),
        sa.Column("reminded_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("archive_id", sa.Text(), nullable=True),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("deleted_files", sa.BigInteger(), nullable=False),
        sa.Column("deleted_bytes", sa.BigInteger(), nullable=False),
        sa.Column("left_files", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("again_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["archive_id"], ["archives.id"], name=op.f("fk_purges_archive_id")),
        sa.ForeignKeyConstraint(["area_id"], ["storage_areas.id"], name=op.f("fk_purges_area_id")),
        sa.ForeignKeyConstraint(["run_id"], ["purge_runs.id"], name=op.f("fk_purges_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_purges")),
        sa.UniqueConstraint("run_id", "area_id", name=op.f("uq_purges_run_id_area_id")),
    )
    with op.batch_alter_table("purges", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_purges_area_id_changed_at_ms"), ["area_id", "changed_at_ms"], unique=False)
        batch_op.create_index(batch_op.f("ix_purges_state_changed_at_ms"), ["state", "changed_at_ms"], unique=False)
        batch_op.create_index(
            "uq_purges_under_way",
            ["area_id"],
            unique=True,
            sqlite_where=sa.text("NOT dry_run AND state NOT IN ('done', 'cancelled', 'failed')"),
            postgresql_where=sa.text("NOT dry_run AND state NOT IN ('done', 'cancelled', 'failed')"),
        )

    op.create_table(
        "restores",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("archive_id", sa.Text(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("asked_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("paths", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["archive_id"], ["archives.id"], name=op.f("fk_restores_archive_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_restores")),
    )
    with op.batch_alter_table("restores", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_restores_archive_id_asked_at_ms"), ["archive_id", "asked_at_ms"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_restores_state_asked_at_ms"), ["state", "asked_at_ms"], unique=False)

    op.create_table(
        "storage_ends",
        sa.Column("area_id", sa.Text(), nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("seen_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("archive_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("limit_bytes", sa.BigInteger(), nullable=True),
        sa.Column("reminded_days", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["area_id"], ["storage_areas.id"], name=op.f("fk_storage_ends_area_id")),
        sa.PrimaryKeyConstraint("area_id", name=op.f("pk_storage_ends")),
    )
    op.create_table(
        "scratch_leases",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("area_id", sa.Text(), nullable=False),
        sa.Column("age_days", sa.Integer(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("made_by", sa.Text(), nullable=False),
        sa.Column("made_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_by", sa.Text(), nullable=True),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["area_id"], ["storage_areas.id"], name=op.f("fk_scratch_leases_area_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scratch_leases")),
    )
    with op.batch_alter_table("scratch_leases", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_scratch_leases_area_id_until_ms"), ["area_id", "until_ms"], unique=False)
