"""Studies of accuracy with many workers on few cores: `python -m bench train`.

`study` is a plan as data, and chooses candidates and judges claims; `studies` holds the plans, and `report` shows them.
`runs` says what one run is, and keeps those that have finished; `training` does those that are missing, on threads or
on real ranks; `workloads` are the tasks. `checks` are measured without a plan. It imports `bench.shared`, the model of
`bench.scale` and mpirun of `bench.cluster`.
"""
