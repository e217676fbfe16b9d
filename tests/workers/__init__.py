"""What ranks of the tests run.

A torch optimizer loads torch's compiler with its first step, which takes as long as loading torch itself, in every
process anew. Nothing that runs here is compiled, so ranks get a word of it instead.
"""

import sys
import types

compiler = types.ModuleType("torch._dynamo")
compiler.__dict__.update(
    disable=lambda function, *_, **__: function,
    graph_break=lambda: None,
    trace_rules=types.SimpleNamespace(clear_lru_cache=lambda: None),
)
sys.modules.setdefault("torch._dynamo", compiler)
