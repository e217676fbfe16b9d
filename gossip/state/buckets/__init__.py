"""Buckets: the parameters' own memory, one flat tensor for each dtype and device.

`bucket` packs parameters, and `storages` gives each one a storage of its own. `masters` and `rounded` keep float32
values of 16-bit parameters. `writes` finds parameters that were written by hand. `sections` cuts buckets into messages.
May import: errors, state.
"""
