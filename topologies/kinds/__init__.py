"""Kinds of topologies that families are made of: `circulants`, pairs (`pairing`), and rounds in a `table`."""
