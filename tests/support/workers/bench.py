"""The benchmarks, on a rank of the tests: `python -m workers.bench COMMAND...` instead of `python -m bench`."""

from __future__ import annotations

from bench.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
