"""The database: schema, migrations and transactions, for SQLite and PostgreSQL alike."""
