"""Time per update, of each algorithm: `python -m bench update`."""
