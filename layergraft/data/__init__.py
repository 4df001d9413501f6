"""From a source of images (`sources`, one kind a file; a new kind goes there) to batches of views (`loader`)."""
