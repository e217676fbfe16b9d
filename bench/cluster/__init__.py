"""Several hosts on one machine: network namespaces behind shaped links, and a command started across them.

`command` is `python -m bench cluster`. `needs` says what the machine lacks for it, `network` makes and removes the
hosts, `changes` is what befalls their links, `launching` starts a command on them as mpirun or torchrun would,
`watching` waits for its end, and `line` measures what raw sockets take, on these hosts and on any others.
"""
