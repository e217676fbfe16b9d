"""Measurements: `python -m bench` says which.

`digits` and `train` train, `update`, `table2`, `overlap` and `overhead` measure; each is one command. `algorithms` is
the table of what they compare, `peers` other libraries, `measuring` the loop that times updates, `samples` the
statistics, `record` the JSON, `screen` the terminal, `mpirun` starts ranks. Of `update`, `plan` reads a file of
options, `matrix` measures all their combinations, `models` computes, `wire` asks raw sockets, `tables` and `breakdown`
are the tables and the picture, with `bars`.
"""
