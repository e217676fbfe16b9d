"""Commands of one or two files."""
