"""The kernels on a GPU: pairs per second beside the static bound, and a training step beside its speed.

    python bench/gpu.py --static --gpu H100      bounds, from the compiled code; no GPU needed
    python bench/gpu.py                          measure, on a CUDA device
    python bench/gpu.py --json run.json --markdown docs/gpu.md

Milliseconds are medians of CUDA events around single calls after a warm-up, so that small cases show what launching
costs.  The last command replaces what stands between the markers of docs/gpu.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import memory
import sharp
import static
import torch
from sharp import Sharp

from bumpnet_fast.core import backends as native
from bumpnet_fast.core.reference import DIAGONAL, WANTS
from bumpnet_fast.diagnostics import bench as speed
from bumpnet_fast.diagnostics.check import capture

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
_ops = torch.ops.bumpnet_fast


class Case(NamedTuple):
    points: int
    bumps: int
    dim: int
    want: str


CASES = (
    Case(2_500, 40, 2, "laplacian"),
    Case(10_000, 400, 2, "laplacian"),
    Case(100_000, 400, 2, "laplacian"),
    Case(1_000_000, 1_000, 2, "laplacian"),
    Case(100_000, 10_000, 2, "laplacian"),
    Case(1_000_000, 1_000, 1, "laplacian"),
    Case(1_000_000, 1_000, 3, "laplacian"),
    *(Case(1_000_000, 1_000, 2, want) for want in ("value", "gradient", "diagonal", "hessian")),
)
#: Where pairs that add nothing are left out, and the same with all of them; the first is not sharp enough to pay.
SHARP = (Sharp(2**20, 1_000, 2), Sharp(2**20, 1_000, 10), Sharp(2**18, 10_000, 10), Sharp(2**20, 10_000, 10),
         Sharp(2**20, 10_000, 50), Sharp(2**20, 100_000, 10))  # fmt: skip
OURS, GRAPH = "ours", "ours, CUDA graph"
PEERS = {
    OURS: lambda: speed.ours,
    "torch.compile": speed.compiled,
    "eager analytic": lambda: speed.analytic,
    "nested autograd": lambda: speed.nested_autograd,
}


# --- measuring -----------------------------------------------------------------------------------


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    """Median of single calls, as many as take about ``seconds`` but at least five."""
    for _ in range(3):
        call()

    def once() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    first = once()
    return statistics.median(once() for _ in range(max(5, min(200, int(1e3 * seconds / max(first, 1e-3))))))


def kernels(case: Case, args: tuple[torch.Tensor, ...], gpu: static.GPU | None, seconds: float) -> dict:
    """Forward, and backward to the rows: milliseconds, pairs per second, and the fraction of what is possible."""
    x, rows, frame, _ = (t.detach() for t in args)
    want = WANTS.index(case.want)
    forward = functools.partial(_ops.jet, x, rows, frame, want, True)
    cotangents = [torch.randn_like(t) if i <= min(want, DIAGONAL) else None for i, t in enumerate(forward())]
    backward = functools.partial(_ops.jet_vjp, *cotangents, x, rows, frame, want, True, False, True)
    found = {}
    for name, call, kernel in (("forward", forward, "jet_kernel"), ("backward", backward, "jet_vjp_rows_kernel")):
        ms = milliseconds(call, seconds)
        rate = case.points * case.bumps / ms * 1e3
        fraction = rate * gpu.seconds_per_pair(counted(kernel, case.dim, want, gpu.arch)) if gpu else None
        found[name] = {"ms": ms, "pairs_per_s": rate, "of_bound": fraction}
    return found


counted = functools.cache(static.count)


def steps(case: Case, args: tuple[torch.Tensor, ...], device: str, seconds: float) -> dict[str, dict]:
    """The training step of every contestant: milliseconds and peak extra memory, or why it failed."""
    calls = {name: functools.partial(_step, make, args) for name, make in PEERS.items()}
    calls[GRAPH] = functools.partial(_replay, args)
    found = {}
    for name, make in calls.items():
        try:
            call = make()
            found[name] = {"ms": milliseconds(call, seconds), "peak_mib": None}
            if name != GRAPH:  # which holds its memory all the time
                found[name]["peak_mib"] = memory.peak_extra_mib(call, device)
        except torch.cuda.OutOfMemoryError:
            found[name] = {"failed": "out of memory"}
        except Exception as error:  # a peer that cannot run is a result too
            found[name] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        if device == "cuda":
            torch.cuda.empty_cache()
    return found


def _step(make: Callable[[], speed.Residual], args: tuple[torch.Tensor, ...]) -> Callable[[], object]:
    return functools.partial(speed.step, make(), *args)


def _replay(args: tuple[torch.Tensor, ...]) -> Callable[[], object]:
    results, replay = capture(lambda: list(speed.step(speed.ours, *args)))

    def call():
        replay()
        return results  # a graph's results live as long as somebody holds them

    return call


def measure(case: Case, gpu: static.GPU | None, device: str = "cuda", seconds: float = 0.5) -> dict:
    """All there is to know of a case; only the Laplacian has a training step that the peers know too."""
    args = speed.case(case.dim, case.points, case.bumps, torch.float32, device=device)
    found = {"case": case._asdict()} | kernels(case, args, gpu, seconds)
    return found | ({"steps": steps(case, args, device, seconds)} if case.want == "laplacian" else {})


def measure_sharp(case: Sharp, device: str = "cuda", seconds: float = 0.5) -> dict:
    """A Laplacian and its gradient to the rows, pairs left out if that pays and all of them; and how they differ."""
    args, found, results = case.arguments(device), {}, []
    for when in ("auto", "never"):
        with native.use_culling(when):
            results.append([call(*args) for call in (sharp.forward, sharp.backward)])
            found[when] = {
                call.__name__: milliseconds(functools.partial(call, *args), seconds)
                for call in (sharp.forward, sharp.backward)
            } | {"peak_mib": memory.peak_extra_mib(functools.partial(sharp.backward, *args), device)}
    off = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*results, strict=True))
    return {"case": case._asdict(), "difference": off} | found


# --- telling -------------------------------------------------------------------------------------


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None


def machine(gpu: static.GPU) -> dict:
    """What the figures belong to."""
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = None
    return {
        "device": gpu.name,
        "processors": gpu.processors,
        "clock_ghz": gpu.clock,
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": str(torch.__version__),
        "triton": triton,
        "commit": _said("git", "describe", "--always", "--dirty", "--abbrev=12"),
    }


def markdown(where: dict, found: list[dict], sharp_ones: list[dict]) -> list[str]:
    """Three tables: the kernels, the training step, and pairs left out."""
    of = f"{where['device']}, {where['processors']} processors at {where['clock_ghz']:.2f} GHz"
    versions = f"driver {where['driver']}, torch {where['torch']}, Triton {where['triton']}, commit {where['commit']}"
    names = [OURS, GRAPH, *(name for name in PEERS if name != OURS)]
    lines = [f"Measured by `python bench/gpu.py` on {of}; {versions}. float32, one output, medians.", ""]
    lines += ["| N | M | d | want | forward | G pairs/s | of the bound | backward | G pairs/s | of the bound |"]
    lines += ["|" + "---|" * 10]
    for one in found:
        cells = [f"{r['ms']:.3g} ms | {r['pairs_per_s'] / 1e9:.3g} | {_percent(r['of_bound'])}"
                 for r in (one["forward"], one["backward"])]  # fmt: skip
        lines.append(f"| {_told(one['case'])} | {one['case']['want']} | {' | '.join(cells)} |")
    lines += ["", "A training step, with what memory it takes at its peak:", ""]
    lines += ["| N | M | d | " + " | ".join(names) + " |", "|" + "---|" * (3 + len(names))]
    for one in found:
        if "steps" in one:
            lines.append(f"| {_told(one['case'])} | {' | '.join(_cell(one['steps'], name) for name in names)} |")
    lines += [
        "",
        "Sharp bumps, d = 2, a Laplacian and its gradient to the rows: pairs left out where that pays, and all:",
        "",
    ]
    lines += ["| N | M | p A | forward | all pairs | backward | all pairs | memory | difference |", "|" + "---|" * 9]
    for one in sharp_ones:
        case, auto, never = one["case"], one["auto"], one["never"]
        cells = [f"{auto[way]:.3g} ms | {never[way]:.3g} ms ({never[way] / auto[way]:.3g} x)"
                 for way in ("forward", "backward")]  # fmt: skip
        told = f"{case['points']:,} | {case['bumps']:,} | {case['sharpness']:g} | {' | '.join(cells)}"
        lines.append(f"| {told} | {auto['peak_mib']:.0f} MiB | {one['difference']:.1e} |")
    return lines


def _told(case: dict) -> str:
    return f"{case['points']:,} | {case['bumps']:,} | {case['dim']}"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.0f} %"


def _cell(found: dict[str, dict], name: str) -> str:
    one, ours = found[name], found[OURS].get("ms")
    if "failed" in one:
        return one["failed"].partition(":")[0]
    ratio = f" ({one['ms'] / ours:.3g} x)" if name != OURS and ours else ""
    return f"{one['ms']:.3g} ms{ratio}" + ("" if one["peak_mib"] is None else f", {one['peak_mib']:.0f} MiB")


def fill(page: Path, lines: Sequence[str]) -> None:
    """Replace what stands between the markers of a page.

    Raises
    ------
    ValueError
        If the page has not each marker once, in this order.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{page} must have the lines {BEGIN} and {END}, once each")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    page.write_text("\n".join([before + BEGIN, "", *lines, "", after]), encoding="utf-8")


# --- the command ---------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--static", action="store_true", help="only the bounds, from compiled code; needs no GPU")
    parser.add_argument("--gpu", choices=static.GPUS, default="H100", help="for --static; default: %(default)s")
    parser.add_argument("--dims", type=int, nargs="+", choices=(1, 2, 3, 4), default=(1, 2, 3), help="for --static")
    parser.add_argument("--wants", nargs="+", choices=WANTS, default=WANTS, help="for --static")
    parser.add_argument("--clock", type=float, metavar="GHZ", help="instead of the boost clock")
    parser.add_argument("--seconds", type=float, default=0.5, help="to measure each figure for; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the tables between the markers of FILE")
    return parser


def main(
    argv: Sequence[str] | None = None,
    cases: Sequence[Case] = CASES,
    device: str = "cuda",
    sharp_cases: Sequence[Sharp] = SHARP,
) -> int:
    options = _parser().parse_args(argv)
    if options.static and options.markdown:
        print("--markdown is for what was measured, --static measures nothing", file=sys.stderr)
        return 2
    if options.static:
        gpu = static.GPUS[options.gpu]
        gpu = gpu._replace(clock=options.clock) if options.clock else gpu
        rows = static.bounds(gpu, options.dims, [WANTS.index(want) for want in options.wants])
        record = {"gpu": gpu._asdict(), "bounds": rows}
        lines = [f"{gpu.name}, sm_{gpu.arch}, {gpu.processors} processors at {gpu.clock} GHz ({gpu.source})", ""]
        lines += static.markdown(rows)
    else:
        if not torch.cuda.is_available():
            print("no CUDA device; --static needs none", file=sys.stderr)
            return 2
        gpu = static.this_gpu(options.clock)
        known = gpu if torch.version.hip is None else None  # the bounds are of NVIDIA's code
        found = [measure(case, known, device, options.seconds) for case in cases]
        sharp_ones = [measure_sharp(case, device, options.seconds) for case in sharp_cases]
        record = {"machine": machine(gpu), "cases": found, "sharp": sharp_ones}
        lines = markdown(record["machine"], found, sharp_ones)
    print("\n".join(lines))
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if options.markdown:
        fill(options.markdown, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
