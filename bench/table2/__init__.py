"""SlowMo's table 2 at a hundredth of its bytes and rate: `python -m bench table2`.

`rows` says what each row communicates and what bytes over bandwidth make of it, and `measurement` measures it. `beside`
sets measured, predicted and published seconds side by side, `notes` says why they differ, `report` and `picture` show
them.
"""
