"""Commands of one file: `digits`, `overlap`, `overhead`, `straggler` and `survive`.

They import `bench.shared`, `bench.measuring`, the judging of `bench.update`, and mpirun of `bench.cluster`.
"""
