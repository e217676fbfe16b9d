"""Studies of accuracy with many workers on few cores: `python -m bench train`."""
