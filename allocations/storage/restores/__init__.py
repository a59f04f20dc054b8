"""What people ask back of archives: asked for where there are no mounts, carried out where they are."""
