"""A study: arms that are searched, trained with several seeds and measured alike, by any number of processes."""
