"""Base classes of topologies: all ranks do the same (`circulants`), meet in pairs (`pairing`), or follow a `table`.

The room imports `arrays`, `topology` and `validation`.
"""
