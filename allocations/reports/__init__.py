"""Reads what the pages and the API show."""
