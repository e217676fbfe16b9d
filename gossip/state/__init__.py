"""One rank's values and weight: the push-sum state, and the code that reads and writes it.

`mass` holds z and w, `merging` draws values towards others (by `kernels` on a GPU), `codecs` write values into
messages, `drift` compares learning rates. `buckets/` is the memory that parameters share with the wire.
May import: errors, observe, transports. Knows nothing of rounds, worlds or optimizers.
"""
