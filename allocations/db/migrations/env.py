"""Alembic's entry: runs the revisions on the connection that `allocations.db.migrate` passes in."""

from alembic import context

from allocations.db.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
