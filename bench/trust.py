"""Whether estimates and warnings can be believed: the library and problems drawn at random, and docs/trust_table.md.

    python bench/trust.py run            # all, about a quarter of an hour; writes bench/measured/trust.json
    python bench/trust.py run --seeds 7  # another hundred, printed and not kept
    python bench/trust.py stated         # all with solve(problem, error=...); writes bench/measured/stated.json
    python bench/trust.py write          # the page, from that file alone

A record has the true error, the estimate that was made without knowing the solution, and the warnings.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import manufactured
import torch
import trust_page

from bumpnet_fast import problems
from bumpnet_fast.problems import Problem, sampling
from bumpnet_fast.solvers import StopReason, march, solve

ROOT = Path(__file__).parents[1]
FILE = ROOT / "bench" / "measured" / "trust.json"
STATED = ROOT / "bench" / "measured" / "stated.json"
PAGE = ROOT / "docs" / "trust_table.md"

#: Seeds of the hundreds on the page; both were looked at while the estimate was mended.
SEEDS = (1, 2)
NUMBER, INVERSE = 100, 20
#: Errors that are asked for, in turn, and seconds that a solve may take.
ASKED, LIMIT = (1e-2, 1e-4, 1e-6), 10.0
#: Points at which errors are measured; none of them is one that a solver or an estimate takes.
_POINTS = 16384
#: Problems of the library with (bumps, iterations).  Those that need hours are solved for their beginning.
LIBRARY: dict[str, tuple[tuple[Any, int], ...]] = {
    "poisson": ((None, 5), (None, 40)), "helmholtz": ((None, 5), (None, 40)), "heat": ((None, 5), (None, 40)),
    "heat2d": (((3, 3, 3), 5), ((3, 3, 3), 15)), "wave": (((6, 6), 5), ((6, 6), 40)),
    "advection": (((6, 6), 10),), "convection-diffusion": ((None, 10), (None, 60)),
    "sharp-poisson": (((6, 6), 10), (None, 40)), "lshape": (((6, 6), 10), (None, 40)),
    "kovasznay": (((4, 4), 3), ((5, 5), 10)), "burgers": (((8, 6), 10),), "allen-cahn": (((8, 6), 10),),
    "inverse-heat": ((None, 10),), "regression": ((None, 5), (None, 40)),
}  # fmt: skip


def measured(problem: Problem, bumps: Any, options: dict[str, Any], known: Any, windows: int = 0) -> dict[str, Any]:
    """Solve, and compare the estimate with the truth, the function ``known``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            solution = (
                march(problem, bumps, windows=windows, **options) if windows else solve(problem, bumps, **options)
            )
        except (ValueError, RuntimeError) as error:  # a word of refusal is no wrong answer
            return {"failed": f"{type(error).__name__}: {error}".split("\n")[0]}
        estimate = solution.error_estimate
        report = solution.report()
    return {
        "error": _short(_true_errors(problem, solution, known)), "estimate": _short(estimate.rel_l2),
        "reliable": estimate.reliable,
        "reason": estimate.reason,
        "processor_seconds": round(solution.processor_seconds, 3), "seconds": round(solution.seconds, 3),
        "estimate_seconds": round(estimate.seconds, 3), "warnings": list(solution.warnings),
        "report_warnings": list(report.warnings),
        "unknowns": {k: [v, *_short([estimate.unknowns.get(k, math.nan)])] for k, v in solution.unknowns.items()},
    }  # fmt: skip


def _true_errors(problem: Problem, solution: Any, known: Any) -> list[float]:
    """Relative L2 errors of the outputs."""
    x = sampling.interior(problem.domain, (_POINTS,) + (1,) * (len(problem.lower) - 1), "sobol", 99)
    x = x[problem.inside(x)]
    exact = known(x).reshape(len(x), -1)
    return ((solution.predict(x).double() - exact).norm(dim=0) / exact.norm(dim=0)).tolist()


def _short(values: Iterable[float]) -> list[float | None]:
    """Three digits, as a file has them; None for what is not finite."""
    return [float(f"{v:.3g}") if math.isfinite(v) else None for v in values]


def of_library() -> list[dict[str, Any]]:
    records = []
    for name, ways in LIBRARY.items():
        for bumps, iterations in ways:
            problem = problems.get(name)
            records.append(
                {"problem": name, "bumps": bumps, "iterations": iterations}
                | measured(problem, bumps, {"iterations": iterations}, problem.reference)
            )
            _tell(records[-1])
    return records


def of_hundred(seed: int, numbers: Any = range(NUMBER)) -> list[dict[str, Any]]:
    records = []
    for k in numbers:
        drawn = manufactured.draw(seed, k)
        about = drawn.about | {"bumps": drawn.bumps, "options": drawn.options, "number": k}
        records.append(about | measured(drawn.problem, drawn.bumps, drawn.options, drawn.problem.solution))
        _tell(records[-1])
    return records


def of_inverse(seed: int, numbers: Any = range(INVERSE)) -> list[dict[str, Any]]:
    records = []
    for k in numbers:
        drawn = manufactured.draw_inverse(seed, k)
        about = drawn.about | {"truth": drawn.problem.truth, "number": k}
        records.append(about | measured(drawn.problem, drawn.bumps, drawn.options, drawn.problem.solution))
        _tell(records[-1])
    return records


def stated(problem: Problem, wanted: float, known: Any) -> dict[str, Any]:
    """Solve to a stated error, and say what came of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            solution = solve(problem, error=wanted, max_seconds=LIMIT)
        except (ValueError, RuntimeError) as error:
            return {"wanted": wanted, "failed": f"{type(error).__name__}: {error}".split("\n")[0]}
    return {
        "wanted": wanted, "reached": solution.stop is StopReason.REACHED,
        "error": _short(_true_errors(problem, solution, known)), "bumps": len(solution.net.rows),
        "mapped": solution.net.maps is not None, "method": solution.method,
        "processor_seconds": round(solution.processor_seconds, 3), "seconds": round(solution.seconds, 3),
    }  # fmt: skip


def of_stated() -> dict[str, Any]:
    """The library and the first hundred, to stated errors."""
    found: dict[str, Any] = {"library": [], "hundreds": {}}
    for name in LIBRARY:
        problem = problems.get(name)
        for wanted in ASKED:
            found["library"].append({"problem": name} | stated(problem, wanted, problem.reference))
            print(found["library"][-1], flush=True)
    for seed in SEEDS[:1]:
        rows = found["hundreds"].setdefault(seed, [])
        for k in range(NUMBER):
            drawn = manufactured.draw(seed, k)
            record = stated(drawn.problem, ASKED[k % len(ASKED)], drawn.problem.solution)
            rows.append({"number": k, "linear": drawn.about["linear"], "kind": drawn.about["kind"]} | record)
            print(rows[-1], flush=True)
    return found


def _tell(record: dict[str, Any]) -> None:
    flaws = trust_page.flaws(record)
    print(trust_page.line(record), *(f"   <== {flaw}" for flaw in flaws), sep="", flush=True)


def _text(records: dict[str, Any]) -> str:
    """One record a line."""
    lines = []
    for name, part in records.items():
        if isinstance(part, dict):
            whole = "{" + ",\n".join(f'"{key}": {_rows(rows)}' for key, rows in part.items()) + "}"
        else:
            whole = _rows(part) if isinstance(part, list) else json.dumps(part)
        lines.append(f'"{name}": {whole}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _rows(rows: list[Any]) -> str:
    return "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="solve all, and write the records")
    running.add_argument("--seeds", type=int, nargs="+", help="only these hundreds, which are printed and not kept")
    running.add_argument("--json", type=Path, help="where to write the records of --seeds")
    running.add_argument("--numbers", type=int, nargs="+", help="only these problems of the seeds")
    running.add_argument("--inverse", type=int, help="only the problems with unknowns of this seed")
    commands.add_parser("stated", help="solve all to stated errors, and write the records")
    commands.add_parser("write", help="write docs/trust_table.md from the records")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    torch.set_num_threads(1)
    if arguments.command == "write":
        records, to_errors = (json.loads(path.read_text(encoding="utf-8")) for path in (FILE, STATED))
        PAGE.write_text(trust_page.page(records, to_errors), encoding="utf-8")
        return 0
    if arguments.command == "stated":
        STATED.write_text(_text(of_stated()), encoding="utf-8")
        return 0
    start, clock = time.process_time(), time.perf_counter()
    if arguments.inverse is not None:
        records, path = {"inverse": of_inverse(arguments.inverse)}, arguments.json
    elif arguments.seeds:
        numbers = arguments.numbers or range(NUMBER)
        records, path = {"hundreds": {seed: of_hundred(seed, numbers) for seed in arguments.seeds}}, arguments.json
    else:
        records = {"library": of_library(), "hundreds": {seed: of_hundred(seed) for seed in SEEDS}}
        records, path = records | {"inverse": of_inverse(SEEDS[0])}, FILE
    records["processor_seconds"] = round(time.process_time() - start)
    records["seconds"] = round(time.perf_counter() - clock)
    records["load"] = [round(os.getloadavg()[0], 1), os.cpu_count()]
    if path:
        path.write_text(_text(records), encoding="utf-8")
    for part in records.get("hundreds", {}).values():
        print(trust_page.counted(part))
    print(f"{records['processor_seconds']} processor seconds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
