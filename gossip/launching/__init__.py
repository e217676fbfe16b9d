"""Processes as launchers start them: their variables, their share of the cores, labels on their lines.

`launchers` reads the variables, `children` tells a rank from a process that it started, `cores` and `labels` serve
`python -m gossip.launch`.
May import: errors. Nothing here imports torch.
"""
