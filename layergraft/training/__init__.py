"""A stage: its loop, optimizer and schedule (`optim`), what a step changes (`trainer`), and what survives a kill."""
