"""The command line, one command in each file.

A command adds its arguments in `add` and computes a `Report` in `run`; `topologies.__main__` prints the report as text
or as JSON. `options.py` holds arguments that several commands share. `output/` formats reports, `pictures/` draws them.
The room imports `analysis`, `loading` and the rooms before them; no module of another room imports this one.
"""
