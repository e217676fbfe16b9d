"""SlowMo's table 2 at a hundredth of its bytes and rate: `python -m bench table2`.

`rows` has the rows, measures them, and has the time that bytes over bandwidth predict for each. `beside` sets measured,
predicted and published seconds side by side and says why they differ. It imports `bench.shared`, `bench.measuring` and
the line of `bench.cluster`.
"""
