"""Keeps the interpreter's checks out of every other process: on import they put Triton in the kernels' place."""

import os

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["checks_combine.py", "checks_interpreted.py"]
