"""What is inside an encoder: one analysis a file, each a function of a `Subject` that returns `Findings`."""
