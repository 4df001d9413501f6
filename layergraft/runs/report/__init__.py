"""One HTML page from a run directory."""
