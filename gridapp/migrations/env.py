"""Runs migrations on the connection it is given; offline runs print SQL."""

from alembic import context

from gridcore.db.types import metadata

connection = context.config.attributes.get("connection")
context.configure(
    connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=False
)
context.run_migrations()
