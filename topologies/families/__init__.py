"""The families of graphs, one in each file; `topologies.catalogue` lists them by name."""
