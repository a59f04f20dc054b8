"""What areas take, and the limits on them: one narrow interface, a module for each kind of file system."""
