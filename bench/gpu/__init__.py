"""Measurements that need a GPU: `python -m bench gpu`.

`command` starts ranks that share a GPU, `steps` sets OSGP's step beside the bare one and the merge beside a copy, and
`training` has real networks. It imports `bench.shared` and mpirun of `bench.cluster`.
"""
