"""``python bench/rivals``: see runner.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # bench, in the place of this folder
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are loaded

from rivals.runner import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
