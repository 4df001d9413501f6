"""A run directory: where its files lie, how they are written, and what each of them holds."""
