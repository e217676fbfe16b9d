"""`python -m gossip.status` shows the ranks of running jobs: where they are, what they wait for, and what that costs.

`ranks` finds the slots of this host's ranks, `table` turns snapshots into text, `screen` shows it in place with rich.
May import: errors, observe.
"""
