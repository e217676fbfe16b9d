"""Launchers (mpirun, torchrun, srun): their environment variables, and the options of `python -m gossip.launch`.

`launchers` reads the variables, `children` tells a rank from a child of a rank, `cores` counts a rank's cores.
May import: errors. Nothing here imports torch.
"""
