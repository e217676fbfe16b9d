"""Observation of a run: counters, positions of ranks, reports, and the end of the job.

`stats` counts, and reports whether weight is lost. `timeline` records events, `board` and `slot` hold the position of
each rank, and `snapshot` shows it to readers outside of the job. `signals` answers signals, `ending` ends the job, and
`process` holds the state of this process and writes to its stderr.
May import: errors.
"""
