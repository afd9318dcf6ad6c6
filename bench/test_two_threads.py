"""Two threads beside one: what bench/threads.py prints, and that the work is shared.

pytest bench -k threads -s
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bumpnet_fast.core import backends as native

SCRIPT = Path(__file__).parent / "threads.py"


@pytest.mark.skipif(native.missing is not None, reason="no compiled extension")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the clock of another thread is Linux's")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two threads on one processor say nothing")
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_two_threads_share_the_work(device, capsys, dtype):
    """Not by the wall clock, which is other people's too: by the processor's time of either thread.

    That of a virtual processor is disturbed by its neighbours too, which only ever makes it longer: the best of three.
    """
    if device != "cpu":
        pytest.skip("threads are the CPU's")
    command = [sys.executable, str(SCRIPT), "--dtype", dtype, "--json"]
    runs = (json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(3))
    found = max(runs, key=lambda run: run["work"])
    with capsys.disabled():
        wall, share, work = found["wall"], 100 * found["share"], found["work"]
        print(f"\ntwo threads, {dtype}: {wall:.2f} by the wall clock, {work:.2f} by work, {share:.0f} % in the busier")
    assert found["share"] < 0.58 and found["work"] > 1.6
