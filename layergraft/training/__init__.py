"""The loop, its schedule, and what survives a kill."""
