"""Edits that take one lock or condition away, each with the tests that must notice."""
