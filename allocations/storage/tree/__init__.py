"""Trees of files that their owners change meanwhile: opened, walked and taken apart without ever leaving them.

Nothing here knows of allocations, rules or a database.
"""
