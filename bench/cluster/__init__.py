"""Several hosts on one machine: network namespaces behind shaped links, and a command started across them.

`command` is `python -m bench cluster`, `needs` checks the machine, `network` makes and removes the hosts. `launching`
starts ranks on them as mpirun or torchrun would, and `watching` waits for their end. `line` times raw sockets, between
any hosts, and `mpirun` starts ranks on this host alone. It imports `bench.shared`.
"""
