"""Several hosts on one machine, `python -m bench cluster`: network namespaces behind shaped links.

`needs` checks the machine, `network` makes the hosts, `launching` starts ranks on them, `watching` waits for their end.
`line` times raw sockets between any hosts; `mpirun` starts ranks on this one alone. It imports `bench.shared`.
"""
