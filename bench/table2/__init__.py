"""SlowMo's table 2 at a hundredth of its bytes and rate: `python -m bench table2`.

`rows` has the rows and the time that bytes over bandwidth predict for each, and `measurement` measures them. `beside`
sets measured, predicted and published seconds side by side, `notes` says why they differ, `report` and `picture` show
them. It imports `bench.shared`, the loop of `bench.update` and the line of `bench.cluster`.
"""
