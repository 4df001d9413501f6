"""The encoder, in memory (`vit`) and in files: our own (`checkpoint`) and those of others (`foreign_formats`)."""
