"""The commands: the command line, the public functions, and one file (or package) a command for what it alone does."""
