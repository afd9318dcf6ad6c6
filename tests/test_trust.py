"""What a careless or unlucky caller gets: one clear error, never a wrong number; and the same bits from any thread."""

import concurrent.futures

import oracle
import pytest
import torch
from interpreted import INTERPRETED

from bumpnet_fast import BumpNet, bump_basis, bump_combine, bump_compact, bump_design, bump_jet, use_backend
from bumpnet_fast.core import backends as native
from bumpnet_fast.nets.adapt import add_bumps, keep_bumps

# --- bad input -----------------------------------------------------------------------------------------------

X, ROWS = torch.zeros(5, 2), torch.zeros(3, 7)
FRAME = torch.tensor([[-1.0, -1], [1, 1], [1, 1]])
NONE = (None, None, None)

#: Every public function of tensors, with the arguments that it has beyond (x, rows, frame).
FUNCTIONS = {
    "bump_jet": lambda x, rows, frame, **k: bump_jet(x, rows, frame, "hessian", **k),
    "bump_basis": lambda x, rows, frame, **k: bump_basis(x, rows, frame, "hessian", **k),
    "bump_design": lambda x, rows, frame, **k: bump_design(NONE, x, rows, frame, "hessian", **k),
    "bump_combine": lambda x, rows, frame, **k: bump_combine(torch.zeros(2, 3), x, rows, frame, **k),
}

BAD = [
    (dict(x=X.numpy()), TypeError, "x must be a torch.Tensor, got ndarray"),
    (dict(x=X[0]), ValueError, r"x must have 2 dimensions, got shape \(2,\)"),
    (dict(x=X[None]), ValueError, r"x must have 2 dimensions, got shape \(1, 5, 2\)"),
    (dict(x=X.to_sparse()), ValueError, "x must be a dense tensor, got layout torch.sparse_coo"),
    (dict(x=X.to_mkldnn()), ValueError, "x must be a dense tensor, got layout torch._mkldnn"),
    (dict(x=X + 0j), TypeError, "x must have the dtype of the rows, torch.float32, got torch.complex64"),
    (dict(x=X.bool()), TypeError, "x must have the dtype of the rows, torch.float32, got torch.bool"),
    (dict(x=X.to("meta")), ValueError, "must be on one device, got x on meta, rows on cpu"),
    (dict(rows=ROWS.to_sparse()), ValueError, "rows must be a dense tensor, got layout torch.sparse_coo"),
    (dict(rows=ROWS + 0j), TypeError, "rows must be float32 or float64, got torch.complex64"),
    (dict(rows=ROWS[:, :4]), ValueError, r"rows must have at least 6 columns .* got shape \(3, 4\)"),
    (dict(frame=FRAME.to_sparse()), ValueError, "frame must be a dense tensor, got layout torch.sparse_coo"),
    (dict(frame=FRAME + 0j), TypeError, "frame must hold real numbers, got torch.complex64"),
    (dict(frame=FRAME.bool()), TypeError, "frame must hold real numbers, got torch.bool"),
    (dict(frame=FRAME[:, :1]), ValueError, r"x must have shape \[N, 1\] for bumps in 1 dimensions"),
    (dict(tied="no"), TypeError, "tied must be True or False, got 'no'"),
    (dict(tied=None), TypeError, "tied must be True or False, got None"),
]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("changed, error, message", BAD)
def test_bad_tensors(backend, name, changed, error, message):
    with pytest.raises(error, match=message):
        FUNCTIONS[name](**(dict(x=X, rows=ROWS, frame=FRAME) | changed))


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
@pytest.mark.parametrize("layout", (torch.strided, torch.jagged))
def test_nested_tensors_are_told_apart(layout):
    with pytest.raises(ValueError, match="x must be a dense tensor, got a nested tensor"):
        bump_jet(torch.nested.nested_tensor([X, X], layout=layout), ROWS, FRAME)


NET = BumpNet(2, 3)
OTHERS = [
    (lambda: bump_design(None, X, ROWS, FRAME, "value"), ValueError, "coefficients must be three, .* got NoneType"),
    (lambda: bump_design((None,), X, ROWS, FRAME, "value"), ValueError, "coefficients must be three, .* got 1 of them"),
    (lambda: bump_design((1.0, None, None), X, ROWS, FRAME, "value"), TypeError, "c0 .value. must be a torch.Tensor"),
    (lambda: bump_design((X[:, 0].to("meta"), None, None), X, ROWS, FRAME, "value"), ValueError, "got meta"),
    (lambda: bump_design((X[:, 0].to_sparse(), None, None), X, ROWS, FRAME, "value"), ValueError, "a dense tensor"),
    (lambda: bump_combine(torch.ones(2, 3).to_sparse(), X, ROWS, FRAME), ValueError, "h must be a dense tensor"),
    (lambda: bump_combine(torch.ones(2, 3).int(), X, ROWS, FRAME), TypeError, "h must have the dtype of the rows"),
    (lambda: bump_combine(torch.ones(3), X, ROWS, FRAME), ValueError, r"h must have shape \[B, 3\]"),
    (lambda: bump_combine(torch.ones(2, 3), X, ROWS, FRAME, precision=3), ValueError, "precision must be one of"),
    (lambda: bump_compact(torch.arange(3), [ROWS]), TypeError, "keep must be a bool tensor, got torch.int64"),
    (lambda: bump_compact([True], [ROWS]), TypeError, "keep must be a torch.Tensor, got list"),
    (lambda: bump_compact(torch.ones(3) > 0, [X]), ValueError, r"tensors\[0\] must have shape \[3, ...\]"),
    (lambda: bump_compact(torch.ones(3) > 0, [ROWS.to_sparse()]), ValueError, r"tensors\[0\] must be a dense tensor"),
    (lambda: NET.jet(X, order=1), TypeError, "'order': write want='gradient' in the place of order=1"),
    (lambda: NET.jet(X, order=2.0), TypeError, "'order': write want='value' or want='gradient' or want='hessian' in"),
    (lambda: NET.jet(X, odrer=1), TypeError, r"jet\(\) got an unexpected keyword argument 'odrer'$"),
    (lambda: NET.jet(X, 1), ValueError, "want must be one of value, gradient, .*, got 1"),
    (lambda: NET.jet([[0.0, 0.0]]), TypeError, r"x must be .*, got list: torch.as_tensor\(..., dtype=torch.float32\)"),
    (lambda: NET(X.numpy()), TypeError, r"x must be .*, got ndarray: torch.as_tensor\(..., dtype=torch.float32\)"),
    (lambda: NET.jet(X, want="curl"), ValueError, "want must be one of value, gradient"),
    (lambda: NET.jet(X).as_dict("u", ("x",)), ValueError, r"coordinates must be 2 names, got \('x',\)"),
    (lambda: NET.jet(X, "value").d(0), AttributeError, "want='value' and has no gradient"),
    (lambda: NET.perturb_(float("nan")), ValueError, "std must be positive and finite, got nan"),
    (lambda: NET.perturb_("much"), TypeError, "std must be a number, got 'much'"),
    (lambda: BumpNet(2, 0), ValueError, "bumps must be at least 1, got 0"),
    (lambda: BumpNet(2.0, 3), TypeError, "dim must be an integer, got 2.0"),
    (lambda: BumpNet(2, 3, outputs=None), TypeError, "outputs must be an integer, got None"),
    (lambda: BumpNet(2, 3, "unit"), TypeError, "domain must be numbers"),
    (lambda: BumpNet(2, 3, dtype="float16"), TypeError, "dtype must be float32 or float64, got 'float16'"),
    (lambda: keep_bumps(NET, torch.arange(3)), TypeError, "keep must be a bool tensor"),
    (lambda: keep_bumps(NET, torch.zeros(3) > 0), ValueError, "keep must keep at least one bump"),
    (lambda: add_bumps(NET, torch.full((1, 7), float("inf"))), ValueError, "rows must be finite"),
]  # fmt: skip


@pytest.mark.parametrize("call, error, message", OTHERS)
def test_other_bad_arguments(call, error, message):
    before = NET.rows.detach().clone()
    with pytest.raises(error, match=message):
        call()
    assert torch.equal(NET.rows, before), "and nothing was changed"


def test_tensors_with_lazy_bits_are_numbers_like_others(backend):
    """PyTorch may hold ``-x`` as ``x`` with a mark, and zeros without memory."""
    rows, frame = oracle.bumps(2, 3)
    x = oracle.points(2, 5)
    for lazy, plain in ((torch._neg_view(x), -x), (torch._efficientzerotensor((5, 2), dtype=x.dtype), 0 * x)):
        assert torch.equal(bump_jet(lazy, rows, frame).value, bump_jet(plain, rows, frame).value)


# --- threads of Python -----------------------------------------------------------------------------------------


def everything(seed):
    """Values, derivatives, gradients, matrices and compaction of a problem of its own."""
    rows, frame = oracle.bumps(2, 40, seed=seed)
    x = oracle.points(2, 300, seed=seed).requires_grad_()
    rows.requires_grad_()
    jet = bump_jet(x, rows, frame, "hessian")
    loss = jet.laplacian.square().mean() + jet.value.mean()
    gx, grows = torch.autograd.grad(loss, (x, rows), create_graph=True)
    second = torch.autograd.grad(gx.square().sum() + grows.square().sum(), rows)[0]
    c0 = x.detach()[:, 0].contiguous()
    matrices = bump_design((c0, None, None), x.detach(), rows.detach(), frame, "value", derivatives=True)
    many = bump_combine(rows.detach()[:, :1].mT.contiguous(), x.detach(), rows.detach(), frame)
    kept = bump_compact(rows.detach()[:, 0] > 0, [rows.detach()])
    return [t.detach() for t in (jet.value, jet.hessian, gx, grows, second, *matrices, many, *kept)]


@pytest.fixture
def chosen(backend):
    """Makes a function run on the backend of the test in any thread: the choice of a thread is its own."""
    name, when = "auto" if backend == "culled" else backend, native.culling()

    def wrap(function):
        def call(argument):
            with use_backend(name), native.use_culling(when):
                return function(argument)

        return call

    return wrap


@pytest.mark.skipif(INTERPRETED, reason="the interpreter of Triton is not for several threads")
def test_many_threads_get_the_bits_of_one(backend, chosen):
    seeds = [seed % 4 for seed in range(24)]
    alone = {seed: everything(seed) for seed in set(seeds)}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for seed, results in zip(seeds, pool.map(chosen(everything), seeds), strict=True):
            for got, wanted in zip(results, alone[seed], strict=True):
                assert torch.equal(got, wanted)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter of Triton is not for several threads")
def test_threads_share_a_net(backend, chosen):
    net, x = BumpNet(2, 25, dtype="float64"), oracle.points(2, 300)
    torch.nn.init.ones_(net.amplitudes.data)
    wanted = net.jet(x).hessian
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for got in pool.map(chosen(lambda _: net.jet(x).hessian), range(24)):
            assert torch.equal(got, wanted)


# --- more pairs than 32 bits count -------------------------------------------------------------------------------


@pytest.mark.skipif(INTERPRETED, reason="the interpreter of Triton takes hours")
def test_more_pairs_than_32_bits_count():
    """2^16 points and 2^15 + 1 bumps: 65536 pairs more than 2^31, none of them lost or taken twice."""
    n, m = 2**16, 2**15 + 1
    frame = torch.tensor([[-1.0], [1.0]])
    x = torch.linspace(-1, 1, n)[:, None]
    rows = torch.zeros(m, 4)
    rows[:, 0], rows[:, 1] = torch.linspace(-2, 2, m), -3.0
    rows[:, 3] = torch.linspace(0.5, 1.0, m) / m
    rows.requires_grad_()
    value = bump_jet(x, rows, frame).value
    places = torch.tensor([0, 1, n // 2, n - 2, n - 1])
    oracle.assert_close(value[places], bump_jet(x[places].double(), rows.double(), frame.double()).value, 1e-4)
    gradient = torch.autograd.grad(value.sum(), rows)[0]
    bumps = torch.tensor([0, 1, m // 2, m - 2, m - 1])
    few = rows.detach()[bumps].double().requires_grad_()
    wanted = torch.autograd.grad(bump_jet(x.double(), few, frame.double()).value.sum(), few)[0]
    oracle.assert_close(gradient[bumps], wanted, 1e-4)
