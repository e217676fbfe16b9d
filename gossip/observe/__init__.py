"""Observation of a run: counters, positions of ranks, reports, and the end of the job.

`stats` counts, `timeline` records events, `board` and `slot` hold the position of each rank. `weight_report` checks
that no weight is lost. `signals` answers signals, `ending` ends the job, and `process` holds the state of this process
and writes to its stderr.
May import: errors.
"""
