"""From experiments.py to docs/results.md: run what is asked for, then write the page from the JSON files alone.

    python bench/results.py list                  # what there is, what has been run, and how long the rest takes
    python bench/results.py run --missing         # all that has no result yet, the short ones first
    python bench/results.py run poisson --seeds 0 # this one, again
    python bench/results.py write                 # the page

Every run is a process of its own on one thread and leaves one file, ``bench/results/NAME-SEED.json``, when it is
done; so a run of many can be stopped by Ctrl-C and gone on with by ``--missing``.  A result counts as long as its
command is that of experiments.py; the version of the code that gave it is in the file and on the page.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import results_page
from experiments import EXPERIMENTS, NAMED, Experiment

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "results.md"

Run = tuple[Experiment, int | None]


def path_of(experiment: Experiment, seed: int | None, folder: Path | None = None) -> Path:
    return (folder or FOLDER) / (experiment.name + ("" if seed is None else f"-{seed}") + ".json")


def load(experiment: Experiment, seed: int | None, folder: Path | None = None) -> dict[str, Any] | None:
    """The record of a run, or None if there is none of this command."""
    path = path_of(experiment, seed, folder)
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return record if record and record["command"] == experiment.line(seed) else None


def load_all(folder: Path | None = None) -> results_page.Records:
    """All records, by name and seed."""
    found = {(e.name, seed): load(e, seed, folder) for e in EXPERIMENTS for seed in e.seeds}
    return {key: record for key, record in found.items() if record}


# --- running -------------------------------------------------------------------------------------


def process(experiment: Experiment, seed: int | None, folder: Path) -> list[str]:
    """The command of a run, with its summary going to ``folder``."""
    program, *words = experiment.words(seed)
    output = ["--json", str(folder / "summary.json")]
    if program == "python":
        return [sys.executable, *words, *output]
    quiet = ["--threads", "1", "--quiet", "--out", str(folder)]
    still = {"evolve": ["--no-animation"], "solve": ["--no-estimate", "--no-report"]}.get(words[0], [])
    return [sys.executable, "-m", "bumpnet_fast", *words, *output, *quiet, *still]


def run(experiment: Experiment, seed: int | None) -> dict[str, Any]:
    """Run it and give its record, with ``failed`` in the place of ``result`` where there is no result."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    about, children, start = origin(), _of_children(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder) / "summary.json"
        command = process(experiment, seed, Path(folder))
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if summary.exists() and done.returncode == 0:
            said = {"result": json.loads(summary.read_text(encoding="utf-8"))}
        else:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            said = {"failed": lines[-1]}
    return {
        "experiment": experiment.name,
        "seed": seed,
        "command": experiment.line(seed),
        **said,
        "processor_seconds": round(_of_children() - children, 2),
        "seconds": round(time.perf_counter() - start, 2),
        **about,
    }


def origin() -> dict[str, Any]:
    """Where and by what a figure is measured that is about to be, on one thread."""
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "threads": 1, "load_before": busy},
        "versions": {"python": platform.python_version()} | _versions("bumpnet_fast", "torch", "numpy", "scipy"),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def _of_children() -> float:
    """Processor seconds of all processes that were started and have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions(*packages: str) -> dict[str, str]:
    return {package: str(__import__(package).__version__) for package in packages}


def _commit() -> str:
    """Of the code, with a mark where it has been changed since."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
    code = [
        "bumpnet_fast",
        "csrc",
        "kernels",
        "examples",
        "bench/mlp_*.py",
        "bench/deeponet.py",
        "bench/training.py",
        "bench/rivals",
    ]
    changed = subprocess.run([*git, "status", "--porcelain", "--", *code], capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else "unknown"


def chosen(names: list[str], seeds: list[int] | None, missing: bool) -> Iterator[Run]:
    """The runs that were asked for, the short ones first."""
    wanted = [NAMED[name] for name in names] if names else sorted(EXPERIMENTS, key=lambda e: e.minutes)
    for experiment in wanted:
        for seed in experiment.seeds:
            if seeds is None or seed in seeds or experiment.seeds == (None,):
                record = load(experiment, seed) if missing else None
                if record is None or "failed" in record:
                    yield experiment, seed


def run_all(runs: list[Run]) -> int:
    """0, or 1 if one of them failed."""
    failed = 0
    for k, (experiment, seed) in enumerate(runs):
        print(f"[{k + 1}/{len(runs)}] {experiment.line(seed)}  ", end="", flush=True)
        record = run(experiment, seed)
        path_of(experiment, seed).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        failed += "failed" in record
        found = record.get("failed") or f"{record['result']['rel_l2']:.1e}"
        print(f"{found}  ({record['seconds']:.0f} s)", flush=True)
    return min(failed, 1)


# --- the command line ----------------------------------------------------------------------------


def show() -> None:
    """What there is, and what is missing."""
    minutes = 0.0
    for experiment in sorted(EXPERIMENTS, key=lambda e: e.minutes):
        states = [_state(load(experiment, seed)) for seed in experiment.seeds]
        minutes += experiment.minutes * sum(state != "run" for state in states)
        print(
            f"{experiment.name:<32}{experiment.minutes:>5.1f} min a run   {', '.join(states):<27} {experiment.command}"
        )
    print(f"\nabout {minutes:.0f} minutes for what is missing")


def _state(record: dict[str, Any] | None) -> str:
    return "missing" if record is None else "failed" if "failed" in record else "run"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is, what has been run, and how long the rest takes")
    running = commands.add_parser("run", help="run experiments, one after the other")
    running.add_argument("names", metavar="NAME", nargs="*", help="default: all")
    running.add_argument("--seeds", type=int, nargs="+", help="only these; default: all of the experiment")
    running.add_argument("--missing", action="store_true", help="only what has no result of its command yet")
    commands.add_parser("write", help="write docs/results.md from the results")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if unknown := [name for name in getattr(arguments, "names", ()) if name not in NAMED]:
        print(f"there is no experiment {unknown[0]!r}; there are: {', '.join(NAMED)}", file=sys.stderr)
        return 2
    if arguments.command == "list":
        show()
    elif arguments.command == "write":
        PAGE.write_text(results_page.page(load_all()), encoding="utf-8")
    else:
        FOLDER.mkdir(exist_ok=True)
        try:
            return run_all(list(chosen(arguments.names, arguments.seeds, arguments.missing)))
        except KeyboardInterrupt:
            print("\ninterrupted; what was finished is kept", file=sys.stderr)
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
