"""What the life of allocations keeps in the database: one store for each kind of record, none of which decides."""
