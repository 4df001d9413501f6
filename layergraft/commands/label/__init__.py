"""`layergraft label`: a page on this machine in which images are labelled."""
