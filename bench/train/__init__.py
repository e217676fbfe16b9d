"""Studies of accuracy with many workers on few cores: `python -m bench train`.

`study` is a plan as data, `studies` holds the plans. `runs` says what one run is, does those that are missing, and
keeps them; `training` trains one, on threads or on real ranks; `workloads` are the tasks. `findings` chooses candidates
and judges claims, `report` and `pictures` show them. `checks` are measured without a plan. It imports `bench.shared`,
the simulation of `bench.scale` and mpirun of `bench.cluster`.
"""
