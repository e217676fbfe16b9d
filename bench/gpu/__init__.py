"""Measurements that need a GPU: `python -m bench gpu`.

`command` is the command line and its Markdown, and starts ranks that share a GPU. `steps` sets OSGP's step beside the
bare one, and the merge beside a copy; `training` has real networks. It imports `bench.shared` and mpirun of
`bench.cluster`.
"""
