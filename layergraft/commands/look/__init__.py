"""`layergraft look`: what the package sees of a source; `run` looks and says it, `page` shows it."""
