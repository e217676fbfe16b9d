"""The programs that ranks of the tests run.

A torch optimizer loads torch's compiler with its first step, which takes as long as loading torch itself, in every
process anew. Nothing that ranks run here is compiled, so `python -m workers.train` gets a word of it instead; torch's
own DistributedDataParallel asks for more, and so do Hugging Face and Lightning.
"""

import sys
import types

WHOLE = {f"workers.{name}" for name in ("compiled", "peers", "inside", "gpu", "pages", "huggingface", "lightning_fit")}

if sys.argv[0] == "-m" and not WHOLE & {*sys.orig_argv}:
    compiler = types.ModuleType("torch._dynamo")
    compiler.__dict__.update(
        disable=lambda function, *_, **__: function,
        graph_break=lambda: None,
        trace_rules=types.SimpleNamespace(clear_lru_cache=lambda: None),
    )
    sys.modules.setdefault("torch._dynamo", compiler)
