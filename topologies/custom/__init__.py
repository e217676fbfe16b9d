"""Graphs of the user, one way to supply them in each file.

`networkx_graphs` takes graphs and `matrices` takes weight matrices, one for each round. `functions` takes a function of
the round, `files` graph files and files of matrices. `entry_points` finds families that other packages declare. `calls`
names the source of an error in foreign code. A subclass of `topologies.Topology` needs no file here. The room imports
`catalogue` and the rooms before it.
"""
