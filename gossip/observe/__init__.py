"""What is told of a run, while it runs and when it ends.

`stats` counts, `timeline` draws, `board` and `slot` say where each rank is, `signals` answer questions, `notice` speaks
of long waits, `account` sums the weight, `ending` ends the job and `say` reaches the real stderr.
May import: errors, checks.
"""
