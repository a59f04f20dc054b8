"""Archives of what was taken out of a tree: compressed, checksummed parts that any tar reads, and the way back."""
