"""What each image is, and how sure that is."""
