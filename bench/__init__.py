"""Measurements: `python -m bench`, from a clone of this repository; it is not installed.

`update` is the mission: where the time and the bytes of an update go. `cluster` makes hosts on one machine, `peers` are
other libraries, `gpu` needs a GPU. `train`, `table2` and `scale` are studies; `experiments` are commands of one file.
`measuring` is the loop that times updates, `shared` has the methods that are compared, options, records, tables and
pictures.

Ranks on several hosts import the clone too: let it have the same path on every host and start mpirun in it, or name it
in PYTHONPATH (`mpirun -x PYTHONPATH ...`).
"""
