"""Graphs of one's own, one way to bring them in each file.

`networkx_graphs.py`: graphs, one for each round. `matrices.py`: weight matrices, one for each round. `functions.py`: a
function of the round. `files.py`: graph files, and files of matrices. `entry_points.py`: families that other packages
declare. `calls.py` says where it comes from when code that is not ours goes wrong.

One more way needs no file: a subclass of `topologies.Topology` that writes `turn`.
"""
