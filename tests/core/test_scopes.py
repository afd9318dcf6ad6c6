"""Settings that hold inside a block: undone in any order, and every thread's own."""

import contextlib
import gc
import threading

import pytest
import torch

from bumpnet_fast import backend, use_backend
from bumpnet_fast.core import backends as native
from bumpnet_fast.core.scopes import Choice, torch_threads
from bumpnet_fast.problems.operators import get_operator
from bumpnet_fast.solvers import threads as solvers_threads
from bumpnet_fast.solvers.threads import few_threads

compiled = pytest.mark.skipif(native.missing is not None, reason=str(native.missing))
VARIANTS = native.variants()


def kernels_culling():
    """What the compiled kernels were told, which is what counts."""
    return native.CULLING[torch.ops.bumpnet_fast._cpu_culling(-1)] if native.missing is None else native.culling()


#: What makes a block, two values unlike the default, and how to ask.
SETTINGS = {
    "choice": (lambda one: lambda value: one.use(value), ("red", "blue"), None),
    "backend": (lambda _: use_backend, ("reference", VARIANTS[0] if VARIANTS else "auto"), backend),
    "culling": (lambda _: native.use_culling, ("never", "always"), native.culling),
    "kernels' culling": (lambda _: native.use_culling, ("never", "always"), kernels_culling),
    "threads": (lambda _: torch_threads, (3, 5), torch.get_num_threads),
    **({"variant": (lambda _: native.use_variant, VARIANTS[:2], native.variant)} if len(VARIANTS) > 2 else {}),
}


@pytest.fixture(params=SETTINGS)
def setting(request):
    make, values, ask = SETTINGS[request.param]
    one = Choice("grey")
    return make(one), values, ask or one.get


def in_threads(*functions):
    """Run the functions at the same time; raises what they raise."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    if errors:
        raise errors[0]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=("first first", "last first"))
def test_blocks_are_left_in_any_order(setting, order):
    use, values, ask = setting
    before = ask()
    blocks = [use(value) for value in values]
    for block, value in zip(blocks, values, strict=True):
        block.__enter__()
        assert ask() == value
    blocks[order[0]].__exit__(None, None, None)
    assert ask() == values[order[1]], "the block that is still open holds"
    blocks[order[1]].__exit__(None, None, None)
    assert ask() == before


def test_equal_values_are_told_apart(setting):
    use, (first, second), ask = setting
    before = ask()
    a, b, c = use(first), use(second), use(first)
    for block in (a, b, c):
        block.__enter__()
    a.__exit__(None, None, None)
    assert ask() == first
    c.__exit__(None, None, None)
    assert ask() == second
    b.__exit__(None, None, None)
    assert ask() == before


def test_generators_that_hold_blocks(setting):
    use, values, ask = setting
    before = ask()

    def steps(value):
        with use(value):
            yield ask()
            yield ask()

    one, two = map(steps, values)
    assert (next(one), next(two)) == values
    one.close()
    assert next(two) == values[1]
    del two
    gc.collect()
    assert ask() == before


@pytest.mark.parametrize("last", [0, 1])
def test_threads_have_their_own(setting, last):
    """Two threads are inside at once and leave in either order."""
    use, values, ask = setting
    before, seen = ask(), {}
    asked, inside, may_leave, left = threading.Barrier(2), threading.Barrier(2), threading.Event(), threading.Event()

    def work(i):
        usual = ask()
        asked.wait(60)  # torch has one number for all new threads, which is wrong for an instant as a block begins
        with use(values[i]):
            inside.wait(60)
            seen[i] = usual, ask()
            if i == last:
                assert left.wait(60)
                seen["still"] = ask()
        seen["after", i] = ask()
        if i != last:
            left.set()
        may_leave.wait(60)
        seen["at the end", i] = ask()

    def bystander():
        assert left.wait(60)
        seen["bystander"] = ask()
        may_leave.set()

    in_threads(lambda: work(0), lambda: work(1), bystander)
    assert seen[0] == (before, values[0]) and seen[1] == (before, values[1]) and seen["still"] == values[last]
    assert [seen[key] for key in seen if key not in (0, 1, "still")] == [before] * 5
    assert ask() == before


def test_a_thread_started_inside_a_block_keeps_nothing_of_it(setting):
    use, values, ask = setting
    before, seen = ask(), []
    with use(values[0]):
        in_threads(lambda: seen.append(ask()))
        assert ask() == values[0]
    in_threads(lambda: seen.append(ask()))
    assert seen == [before, before] and ask() == before


def test_a_block_that_another_thread_ends():
    choice = Choice("grey")
    block = choice.use("red")
    block.__enter__()
    in_threads(lambda: block.__exit__(None, None, None))
    assert choice.get() == "grey"


def test_an_error_ends_a_block(setting):
    use, values, ask = setting
    before = ask()
    with pytest.raises(KeyError), use(values[0]):
        raise KeyError
    assert ask() == before


@compiled
def test_two_threads_get_the_bits_of_their_own_backend():
    """What serves is the backend that a thread chose, while the other is in a block of its own."""
    from bumpnet_fast import BumpNet

    net = BumpNet(2, 50)
    torch.nn.init.ones_(net.amplitudes.data)
    x = torch.rand(700, 2, generator=torch.Generator().manual_seed(0))
    wanted, found = {}, {}
    names = ("reference", *VARIANTS)
    for name in names:
        with use_backend(name):
            wanted[name] = net.jet(x, want="laplacian").laplacian.detach()
    together = threading.Barrier(len(names))

    def work(name):
        with use_backend(name):
            together.wait(60)
            found[name] = [net.jet(x, want="laplacian").laplacian.detach() for _ in range(20)]
            together.wait(60)

    in_threads(*(lambda name=name: work(name) for name in names))
    assert not torch.equal(wanted["reference"], wanted[VARIANTS[-1]]), "else this test sees nothing"
    for name in names:
        assert all(torch.equal(got, wanted[name]) for got in found[name]), name


# --- the number of torch's threads ---------------------------------------------------------------


def test_few_threads_takes_fewer_only(monkeypatch):
    monkeypatch.setattr(solvers_threads, "ENTRIES_PER_THREAD", 10)
    with torch_threads(2):
        for entries, number in ((0, 1), (9, 1), (10, 2), (1000, 2)):
            with few_threads(entries):
                assert torch.get_num_threads() == number
        assert torch.get_num_threads() == 2


def test_solves_in_two_threads_leave_the_number_of_threads_alone():
    """The second thread must not take the number of the first for the usual one."""
    seen, first_inside, second_inside = [], threading.Event(), threading.Event()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch_threads(4))
        usual = []
        in_threads(lambda: usual.append(torch.get_num_threads()))

        def first():
            with few_threads(0):
                first_inside.set()
                assert second_inside.wait(60)
            seen.append(torch.get_num_threads())

        def second():
            assert first_inside.wait(60)
            with few_threads(0):
                second_inside.set()
                get_operator("antiderivative").generate(2)
                assert torch.get_num_threads() == 1
            seen.append(torch.get_num_threads())

        in_threads(first, second)
        assert seen == usual * 2 and torch.get_num_threads() == 4


def test_operators_data_do_not_depend_on_who_else_computes():
    operator = get_operator("antiderivative")
    wanted, found = operator.generate(20, seed=3), {}
    together = threading.Barrier(2)

    def work(number):
        with torch_threads(number):
            together.wait(60)
            found[number] = [operator.generate(20, seed=3) for _ in range(5)]
            assert torch.get_num_threads() == number

    in_threads(lambda: work(1), lambda: work(2))
    for data in (*found[1], *found[2]):
        assert torch.equal(data.inputs, wanted.inputs) and torch.equal(data.outputs, wanted.outputs)
