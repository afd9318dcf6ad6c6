"""What is wrong with an argument is said once, before any work: which it is, what was given, and what is wanted."""

import math

import pytest
import torch
from cases import Cubic
from toy_solver import RandomRestarts

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.problems import Problem
from bumpnet_fast.problems.evolution import Burgers
from bumpnet_fast.solvers import Adam, Method, Stop, VarPro, solve, train
from bumpnet_fast.solvers.arguments import check_fit, check_net, choice, integer, number, positive

KINDS = pytest.mark.parametrize("problem", (problems.get("burgers"), Burgers()), ids=("solved", "evolves"))


def net_for(problem, **changes):
    return BumpNet(**{"dim": problem.domain.shape[1], "bumps": 5, "domain": problem.domain, "outputs": 1} | changes)


@KINDS
def test_a_net_that_fits_passes(problem):
    check_net(problem, net_for(problem))
    check_net(problem, net_for(problem, dtype="float64"))


@KINDS
@pytest.mark.parametrize(
    ("changes", "text"),
    (
        (dict(dim=3, domain=None), "net has 3 dimensions and problem 'burgers' has"),
        (dict(outputs=2), "net has 2 outputs and problem 'burgers' has 1"),
        (dict(domain=None), "net is for the domain"),
    ),
)
def test_what_does_not_fit_is_named(problem, changes, text):
    if "domain" in changes and "dim" not in changes:
        changes = dict(domain=problem.domain + 1.0)
    with pytest.raises(ValueError, match=text):
        check_net(problem, net_for(problem, **changes))


@KINDS
def test_rows_must_be_finite(problem):
    net = net_for(problem)
    with torch.no_grad():
        net.rows[3, 1] = torch.nan
    with pytest.raises(ValueError, match="rows that are not finite"):
        check_net(problem, net)


class _Greedy(Problem):
    want = "everything"


@pytest.mark.parametrize(("problem", "net", "boundary", "message"), [
    (Problem(), BumpNet(2, 4), "firm", "boundary must be one of hard, soft, got 'firm'"),
    (Problem(), BumpNet(3, 4), "hard", "net has 3 dimensions and problem 'Problem' has 2"),
    (problems.get("lshape"), BumpNet(2, 4), "hard", "boundary of problem 'lshape' must be soft, got 'hard'"),
    (_Greedy(), BumpNet(2, 4), "hard", "want .* must be one of value, .*, got 'everything'"),
])  # fmt: skip
def test_net_and_form_must_fit_the_problem(problem, net, boundary, message):
    with pytest.raises(ValueError, match=message):
        check_fit(problem, net, boundary)


# --- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "good", "bad", "wanted"), [
    (integer(1), [1, 7], [0, -1, 1.0, True, "1", None, math.nan], "an integer of at least 1"),
    (integer(optional=True), [0, None], [-1], "an integer of at least 0"),
    (number(), [0, 0.5, 3], [-1e-9, math.inf, math.nan, "0", None, False], "at least 0"),
    (number(-math.inf), [-5, 0.0], [math.inf, -math.inf], "a finite number"),
    (number(0, 1), [0, 1], [-0.1, 1.1], "between 0 and 1"),
    (number(0, 1, open="high"), [0, 0.99], [1, -1], "at least 0 and less than 1"),
    (positive(), [1e-300, 2], [0, -1, math.inf], "positive"),
    (choice("a", "b"), ["a"], ["c", "", 1, None, ["a"]], "one of a, b"),
], ids=str)  # fmt: skip
def test_a_rule_says_what_it_wants(rule, good, bad, wanted):
    for value in good:
        assert rule.check("size", value) is value
    for value in bad:
        with pytest.raises(ValueError) as error:
            rule.check("size", value)
        assert str(error.value) == f"size must be {wanted}, got {value!r}"


# --- methods and limits of solve -------------------------------------------------------------------


@pytest.mark.parametrize(("options", "kind", "message"), [
    ({"method": "sgd"}, ValueError, "method must be of .*auto.*adam.*, joined by '[+]', got 'sgd'"),
    ({"method": "adam+"}, ValueError, "got 'adam[+]'"),
    ({"method": ""}, ValueError, "got ''"),
    ({"method": None}, TypeError, "method must be a name, a Method or several of them, got None"),
    ({"method": 3}, TypeError, "got 3"),
    ({"method": []}, TypeError, r"got \[\]"),
    ({"method": ["adam"]}, TypeError, r"got \['adam'\]"),
    ({"method": VarPro}, TypeError, "got <class"),
    ({"method": VarPro(damping=-1.0)}, ValueError, "damping must be positive, got -1.0"),
    ({"method": Adam(), "learning_rate": 1.0}, TypeError, "learning_rate must be an option of the method"),
    ({"method": RandomRestarts(tries=0)}, ValueError, "tries must be an integer of at least 1, got 0"),
    ({"method": "random-restarts", "damping": 1.0}, TypeError, "no option 'damping'; there are: amplitudes, i.*tries"),
    ({"method": "lbfgs", "batch": 8}, TypeError, "method 'lbfgs' has no option 'batch'; there are: iterations, log_ev"),
    ({"method": "varpro-adam", "batch": 8}, ValueError, "batch is for method 'adam'; 'varpro-adam' takes all points"),
    ({"every": 5}, TypeError, "has no option 'every'"),
    ({"iterations": (1, 2)}, ValueError, r"iterations must be a number or 1 numbers for 'auto', got \(1, 2\)"),
    ({"method": "adam+lbfgs", "iterations": (1, 2.5)}, ValueError, "iterations must be an integer .*, got 2.5"),
    ({"iterations": 5, "stop": Stop(iterations=5)}, TypeError, "iterations must go into stop"),
    ({"refine": 1, "method": "adam"}, ValueError, "refine is for least squares, got method 'adam'"),
    ({"refine": -1}, ValueError, "refine must be an integer of at least 0, got -1"),
    ({"condition_weight": "much"}, ValueError, "condition_weight must be positive, got 'much'"),
    ({"step_cap": math.nan}, ValueError, "step_cap must be positive, got nan"),
    ({"ridge": -1e-9}, ValueError, "ridge must be at least 0"),
    ({"max_seconds": "long"}, ValueError, "max_seconds must be positive, got 'long'"),
    ({"method": "adam", "resample": 1.5, "sampling": "sobol"}, ValueError, "resample must be an integer"),
    ({"method": "adam", "resample": 5, "sampling": "sobol", "points": torch.rand(9, 2)}, ValueError, "points that you"),
    ({"method": "adam", "prune_threshold": 1.5}, ValueError, "prune_threshold must be between 0 and 1, got 1.5"),
    ({"method": "adam", "prune_least": True}, ValueError, "prune_least must be an integer of at least 1, got True"),
])  # fmt: skip
def test_wrong_options_are_named_before_anything_happens(options, kind, message):
    problem, net = problems.get("poisson"), net_for(problems.get("poisson"))
    before = net.rows.detach().clone()
    with pytest.raises(kind, match=message):
        solve(problem, net, callback=pytest.fail, **options)
    assert torch.equal(net.rows, before)


@pytest.mark.parametrize(("problem", "net", "kind"), [
    ("poisson", None, TypeError), (problems.get("poisson"), "big", (TypeError, ValueError)),
    (problems.get("poisson"), 0, ValueError), (problems.get("poisson"), (2, 2, 2), ValueError),
], ids=str)  # fmt: skip
def test_what_is_no_problem_or_no_net_is_refused(problem, net, kind):
    with pytest.raises(kind, match=r"problem must be|bumps must|net must"):
        solve(problem, net)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, "long"])
def test_limits_are_checked_where_they_are_made(seconds):
    with pytest.raises(ValueError, match="seconds must be positive, got"):
        Stop(seconds=seconds)


@pytest.mark.parametrize("method", ["varpro", "varpro-adam", "adam+varpro", "lm+varpro-adam"])
@pytest.mark.parametrize("problem", [Cubic(), problems.get("inverse-heat")], ids=["nonlinear", "unknowns"])
def test_a_chain_that_cannot_go_to_its_end_does_not_begin(problem, method, tmp_path):
    message = f"{problem.name}' is nonlinear in u or its unknowns, which 'varpro.*' cannot do; use method='"
    with pytest.raises(ValueError, match=message):
        solve(problem, 4, method=method, callback=pytest.fail, checkpoint=tmp_path / "run.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("function", [solve, train])
def test_a_residual_that_is_not_finite_is_refused(function):
    class Broken(type(problems.get("poisson"))):
        def residual(self, x, u):
            return u.laplacian[:, 0] / 0.0

    with pytest.raises(ValueError, match="residual of problem 'poisson' is not finite at the start"):
        function(Broken(), net_for(Broken()))


def test_a_method_of_ones_own_is_known_by_its_own_name_only():
    class Walk(Adam):
        pass

    class Missing(Method):
        pass

    assert Method.known["adam"] is Adam and Method.known["random-restarts"] is RandomRestarts
    solution = solve(problems.get("poisson"), 4, method=Walk(), iterations=1)
    assert solution.iterations == 1
    with pytest.raises(NotImplementedError, match="Missing must define start"):
        solve(problems.get("poisson"), 4, method=Missing())
