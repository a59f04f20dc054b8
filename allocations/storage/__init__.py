"""People's files: measured, charged, warned of, purged, archived and restored."""
