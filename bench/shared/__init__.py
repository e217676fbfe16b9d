"""Code that the measurements share.

`methods` are compared, `digits` trains. `options` are of the command line, `record` of the JSON; `screen`, `tables` and
`pictures` are the output; `statistics` and `paper` have figures. It imports no other room of bench.
"""
