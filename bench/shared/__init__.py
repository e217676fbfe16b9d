"""Code that the measurements share.

`methods` are compared, `digits` trains. `options` and `record` are the command line and the JSON;
`screen`, `tables` and `pictures` are the output; `statistics` and `paper` have figures. It imports no other room of bench.
"""
