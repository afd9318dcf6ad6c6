"""Keeps the interpreter's checks out of every other process: on import they put Triton in the kernels' place."""

import os

CHECKS = ["checks_combine.py", "checks_culling.py", "checks_interpreted.py"]
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else CHECKS
