"""The families of graphs, one in each file; `topologies.catalogue` lists them by name.

A family is a function from a number of ranks and options to a validated `Topology`. A family may import everything
below the catalogue: `arrays`, `checks`, `topology`, `validation`, `kinds`, `composition` and other families. To add
one, write a file here and name its function in `topologies/catalogue.py` and `topologies/__init__.py`.
"""
