"""What `layergraft bench` runs."""
