"""What is wrong with a set of images or its labels: duplicates, a leak, outliers, label errors, classes alike."""
