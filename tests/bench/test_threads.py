"""bench/threads.py: the clocks of single threads, and what it finds.  In processes: importing it is a setting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the clock of another thread is Linux's")

TWO_THREADS = """
import json, threading, time
import threads

def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

def work():
    spin(0.2)
    done.set()
    leave.wait()

def both():
    worker.start()
    spin(0.05)
    done.wait()

done, leave = threading.Event(), threading.Event()
worker = threading.Thread(target=work)
wall, own = threads.taken(both)
leave.set()
print(json.dumps([wall, *own[:2]]))
"""
A_SMALL_CASE = "import json, threads; print(json.dumps(threads.measure(threads.CASE._replace(bumps=40), 2)))"


def run(program):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCH), str(BENCH.parent)])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_thread_has_a_clock():
    wall, busier, other = run(TWO_THREADS)
    assert 0.2 <= busier < 0.25 and 0.05 <= other < 0.1 and wall >= busier


def test_what_is_found():
    found = run(A_SMALL_CASE)
    assert found.keys() == {"wall", "share", "work"}
    assert 0.5 <= found["share"] <= 1 and found["wall"] > 0 and found["work"] > 0
