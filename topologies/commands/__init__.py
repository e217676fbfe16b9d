"""What the command line can do, one command in each file, and how it reads and writes.

A command says what it takes in `add` and what it does in `run`, which returns a `Report`; `topologies.__main__` prints
it, as text or as JSON. `options.py` holds what several commands take, `units.py` how quantities are written,
`tables.py` how a table is laid out.
"""
