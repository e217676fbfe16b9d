"""Commands of one or two files: `digits`, `overlap`, `overhead` (with `footprint`), `straggler`, `survive`.

They import `bench.shared`, the loop of `bench.update`, and mpirun of `bench.cluster`.
"""
