"""Sources of images: what a user names, and where pixels, keys and labels come from. One kind a file."""
