"""compact(keep, tensors) gives exactly the kept rows; the algorithms of its CUDA part run on the CPU here."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.library import opcheck

from bumpnet_fast import BumpNet, bump_compact, use_backend
from bumpnet_fast.core import backends as native
from bumpnet_fast.core import ops

ROOT = Path(__file__).parents[2]
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.complex64, torch.complex128, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
)
#: Around the numbers of threads that the CUDA code divides rows among.
SIZES = (0, 1, 2, 31, 32, 33, 255, 257, 1023, 1024, 1025, 2047, 2049, 5000)
OPERATOR = torch.ops.bumpnet_fast.compact


def mask(rows: int, share: float = 0.5) -> torch.Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(rows)) < share


def filled(rows: int, *trailing: int, dtype=torch.float32) -> torch.Tensor:
    """Random bytes, whatever they mean: a copy must keep even the bits of a NaN."""
    width = torch.empty(0, dtype=dtype).element_size()
    high = 2 if dtype == torch.bool else 256
    generator = torch.Generator().manual_seed(rows + 1)
    values = torch.randint(0, high, (rows, *trailing, width), dtype=torch.uint8, generator=generator)
    return values.view(dtype).squeeze(-1)


def bits(t: torch.Tensor) -> torch.Tensor:
    return t.contiguous().flatten().view(torch.uint8)


def assert_compacted(keep, tensors, results):
    """The oracle copies row by row, by means of Python's own lists."""
    places = [i for i, kept in enumerate(keep.tolist()) if kept]
    assert len(results) == len(tensors)
    for t, result in zip(tensors, results, strict=True):
        assert result.dtype == t.dtype and result.is_contiguous()
        assert tuple(result.shape) == (len(places), *t.shape[1:])
        rows = [bits(t[i]) for i in places]
        assert torch.equal(bits(result), torch.cat(rows) if rows else torch.empty(0, dtype=torch.uint8))


@pytest.fixture(params=["operator", "plain"])
def compact(request):
    """The operator as it serves CPU tensors here, and the plain PyTorch that serves elsewhere."""
    return OPERATOR if request.param == "operator" else ops.plain_compact


@pytest.mark.skipif(native.missing is not None, reason=str(native.missing))
def test_the_compiled_kernel_serves_the_cpu():
    assert torch._C._dispatch_has_kernel_for_dispatch_key("bumpnet_fast::compact", "CPU")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(compact, dtype):
    keep = mask(37)
    tensors = [filled(37, dtype=dtype), filled(37, 3, dtype=dtype), filled(37, 2, 5, dtype=dtype)]
    assert_compacted(keep, tensors, compact(keep, tensors))


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_every_size_and_share(compact, rows, share):
    keep = mask(rows, share)
    assert share not in (0.0, 1.0) or keep.sum() == share * rows
    tensors = [filled(rows, 7), torch.arange(rows)]
    assert_compacted(keep, tensors, compact(keep, tensors))


def test_zero_tensors_and_empty_rows(compact):
    assert compact(mask(9), []) == []
    tensors = [filled(9, 0), filled(9, 4, 0, 2)]
    assert_compacted(mask(9), tensors, compact(mask(9), tensors))


def test_what_is_not_contiguous(compact):
    keep = mask(2 * 40)[::2]
    base = filled(40, 6, 4)
    tensors = [base[:, ::2], base.transpose(1, 2), base[:, 0], base.flip(0)[:, 1], filled(1, 3).expand(40, 3)]
    tensors += [filled(6, 40).t(), filled(80, 3)[1::2], filled(41, 3)[1:]]
    assert not keep.is_contiguous()
    assert_compacted(keep, tensors, compact(keep, tensors))


def test_views_that_are_not_their_memory():
    keep, z = mask(20), filled(20, 2, dtype=torch.complex64).nan_to_num()
    [conjugate, negative] = bump_compact(keep, [z.conj(), z.conj().imag])
    assert torch.equal(conjugate, z.conj()[keep]) and torch.equal(negative, (-z.imag)[keep])


def test_any_byte_but_zero_keeps_a_row():
    """Such masks come from ``view(torch.bool)``; indexing takes every byte but zero for True."""
    keep = torch.tensor([0, 2, 255, 0, 1, 128], dtype=torch.uint8).view(torch.bool)
    assert bump_compact(keep, [torch.arange(6)])[0].tolist() == [1, 2, 4, 5]


def test_results_share_no_memory_with_the_arguments():
    t = torch.zeros(4, 2)
    bump_compact(torch.ones(4, dtype=torch.bool), [t])[0].fill_(1)
    assert t.sum() == 0


def test_rows_and_moments_of_an_optimiser_stay_together():
    net = BumpNet(2, 12, dtype="float64")
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.rand(30, 2, dtype=torch.float64)).square().sum().backward()
    optimiser.step()
    state, keep = optimiser.state[net.rows], mask(12)
    tensors = [net.rows.detach(), state["exp_avg"], state["exp_avg_sq"]]
    assert_compacted(keep, tensors, bump_compact(keep, tensors))


# --- the operator in PyTorch's machinery -----------------------------------------------------------


def test_opcheck():
    x = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    opcheck(OPERATOR, (mask(9), [x, torch.arange(9)]))
    opcheck(OPERATOR, (mask(9), []))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradients(backend):
    keep = mask(9)
    x, y = (torch.randn(9, n, dtype=torch.float64, requires_grad=True) for n in (1, 2))

    def both(x, y):
        a, b, whole = bump_compact(keep, [x, y, torch.arange(9)])
        assert not whole.requires_grad
        return a * b

    with use_backend(backend):
        assert torch.autograd.gradcheck(both, (x, y), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(both, (x, y))


def test_only_what_is_used_has_a_gradient():
    x, y = torch.randn(9, requires_grad=True), torch.randn(9, requires_grad=True)
    kept, _ = bump_compact(mask(9), [x, y])
    kept.sum().backward()
    assert torch.equal(x.grad, mask(9).float()) and (y.grad is None or not y.grad.any())


def test_transforms_answer_in_plain_pytorch():
    keep, x = mask(9), torch.randn(4, 9)
    assert torch.equal(torch.func.vmap(lambda t: bump_compact(keep, [t])[0])(x), x[:, keep])
    _, tangent = torch.func.jvp(lambda t: bump_compact(keep, [t])[0], (x[0],), (x[1],))
    assert torch.equal(tangent, x[1][keep])


# --- bad arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "tensors", "error", "message"),
    [
        ([True], [], TypeError, "keep must be a torch.Tensor, got list"),
        (torch.ones(3), [], TypeError, "keep must be a bool tensor, got torch.float32"),
        (torch.ones(3, 1, dtype=torch.bool), [], ValueError, r"keep must have shape \[M\], got \(3, 1\)"),
        (mask(3), [torch.ones(3), 1.0], TypeError, r"tensors\[1\] must be a torch.Tensor, got float"),
        (mask(3), [torch.ones(2, 3)], ValueError, r"tensors\[0\] must have shape \[3, ...\] as keep has, got \(2, 3\)"),
        (mask(3), [torch.tensor(1.0)], ValueError, r"tensors\[0\] must have shape \[3, ...\] as keep has, got \(\)"),
        (mask(3), [torch.ones(3, 2).to_sparse()], ValueError, r"tensors\[0\] must be a dense tensor"),
        (mask(3), [torch.ones(3, device="meta")], ValueError, r"on the device of keep, cpu, got meta"),
    ],
)
def test_bad_arguments(keep, tensors, error, message):
    with pytest.raises(error, match=message):
        bump_compact(keep, tensors)


@pytest.mark.skipif(native.missing is not None, reason=str(native.missing))
@pytest.mark.parametrize(
    ("keep", "tensor"),
    [
        (torch.ones(3), torch.ones(3)),
        (mask(3), torch.ones(2)),
        (mask(3), torch.tensor(1.0)),
        (mask(6).view(2, 3), mask(2)),
    ],
)
def test_a_direct_call_never_reads_beyond_a_tensor(keep, tensor):
    with pytest.raises(RuntimeError, match=r"must be"):
        OPERATOR(keep, [tensor])


# --- the CUDA algorithms on the CPU ------------------------------------------------------------------

compiler = os.environ.get("CXX") or "c++"
#: Runs the templates of csrc/cuda/compact.h.  A block's threads run one after the other, forwards or backwards:
#: were one to read in a phase what another writes in it, the two orders would differ.
HOST = """
#include <memory>
#include "compact.h"
using namespace bump;
struct HostBlock {
  bool backwards;
  template <class F> void each(const F& f) const {
    for (int i = 0; i < kBlock; i++) f(backwards ? kBlock - 1 - i : i);
  }
};
extern "C" int64_t host_select(const unsigned char* keep, int64_t rows, int64_t* index, bool backwards) {
  std::unique_ptr<Scan> scan(new Scan);
  int64_t kept = -1;
  select(HostBlock{backwards}, *scan, keep, rows, index, &kept);
  return kept;
}
extern "C" void host_gather(const char* from, char* to, int64_t row_bytes, const int64_t* index, int64_t kept,
                            int64_t threads) {
  for (int64_t t = threads; t-- > 0;) gather({from, to, row_bytes}, index, kept, t, threads);
}
extern "C" int host_word(const char* from, char* to, int64_t row_bytes) { return word_of({from, to, row_bytes}); }
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """The CUDA part's algorithms, compiled for the CPU; undefined behaviour ends the process."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler: {compiler}")
    folder = tmp_path_factory.mktemp("host")
    (folder / "host.cpp").write_text(HOST)
    flags = ["-std=c++17", "-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
    flags += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]  # which needs no library
    target, include = folder / "host.so", f"-I{ROOT / 'csrc' / 'cuda'}"
    done = subprocess.run(
        [compiler, *flags, include, "host.cpp", "-o", target], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(target))
    library.host_select.restype = ctypes.c_int64
    return library


def pointer(t: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(t.data_ptr())


def selected(host, keep: torch.Tensor, backwards: bool = False) -> torch.Tensor:
    """What the CUDA code selects, with its fences checked: nothing may be written behind the last index."""
    rows, fence = len(keep), -7
    index = torch.full((rows + 1,), fence)
    kept = host.host_select(pointer(keep), ctypes.c_int64(rows), pointer(index), ctypes.c_bool(backwards))
    assert 0 <= kept <= rows and (index[kept:] == fence).all()
    return index[:kept]


@pytest.mark.parametrize("rows", [*SIZES, 1024 * 1024 + 1])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_cuda_selection_on_the_cpu(host, rows, share):
    keep = mask(rows, share)
    wanted = keep.nonzero().squeeze(1)
    assert torch.equal(selected(host, keep), wanted)
    assert torch.equal(selected(host, keep, backwards=True), wanted)


@pytest.mark.parametrize("threads", [1, 3, 256, 4096])
@pytest.mark.parametrize("row_bytes", [1, 2, 3, 4, 6, 8, 12, 16, 24, 28, 32, 57])
def test_cuda_gather_on_the_cpu(host, row_bytes, threads):
    keep = mask(203)
    index, source = selected(host, keep), filled(203, row_bytes, dtype=torch.uint8)
    target = torch.full((len(index) + 1, row_bytes), 99, dtype=torch.uint8)
    size, kept, threads = map(ctypes.c_int64, (row_bytes, len(index), threads))
    host.host_gather(pointer(source), pointer(target), size, pointer(index), kept, threads)
    assert torch.equal(target[:-1], source[keep]) and (target[-1] == 99).all()


@pytest.mark.parametrize(
    ("start", "row_bytes", "word"),
    [
        (0, 16, 16),
        (0, 48, 16),
        (0, 8, 8),
        (8, 16, 8),
        (4, 16, 4),
        (0, 28, 4),
        (2, 8, 2),
        (0, 6, 2),
        (1, 16, 1),
        (0, 7, 1),
    ],
)
def test_words_are_as_wide_as_rows_and_addresses_allow(host, start, row_bytes, word):
    for addresses in ((4096 + start, 8192), (4096, 8192 + start)):
        assert host.host_word(*map(ctypes.c_void_p, addresses), ctypes.c_int64(row_bytes)) == word
