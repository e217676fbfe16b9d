"""Going on without ranks that died; `GossipOptimizer(on_failure="shrink")` plugs it in.

`push_sum` is a landing strategy whose waits begin again after a death, `deaths` shares the weight that is left among
the survivors. How they notice a death and meet again is `transports.carrier`.
May import: averagers, errors, state, transports, world, and topologies.
"""
