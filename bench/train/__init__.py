"""Studies of accuracy with many workers on few cores: `python -m bench train`.

`methods` is what is compared, `workloads` what is trained, `shards` who trains on what, `runs` what one run is and
where finished ones are kept, `training` how it goes, on threads or on real ranks. `study` is a plan as data, `studies`
holds them. `conducting` does the runs that are missing, `findings` chooses candidates and judges claims by
`statistics`; `report`, `pictures` and `costs` tell of it. `equality` shows that virtual workers are real ones,
`quadratic` what theory promises, `apart` how far workers are from one another; `unweighted` and `graphs` are for the
study of the push-sum weight.
"""
