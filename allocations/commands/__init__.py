"""The commands of `meridian` that take a page of their own, and what all of them share."""
