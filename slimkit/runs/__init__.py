"""One file a command, from files to files."""
