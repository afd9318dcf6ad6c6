"""Finite elements by scikit-fem: P2 and P4 on meshes graded to layers, peaks and corners.

The weak form of a linear equation of second order is made of the problem's residual: its coefficients by automatic
differentiation at the quadrature points.  That of Kovasznay's flow is below: Taylor-Hood elements and Newton's method.
Time is one more axis for the heat equation.  Meshes are of triangles, curved by quadratics where the domain is.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse.linalg as sparse
import torch
from scipy.spatial import cKDTree
from torch import Tensor

try:
    import skfem
    from skfem.helpers import dot, grad
except ImportError:  # an option: pip install "bumpnet_fast[bench]"
    skfem = None

from bumpnet_fast import Jet
from bumpnet_fast.problems import Problem
from bumpnet_fast.solvers.residual import Block, linearise

from .rungs import Answer, Rung

#: Numbers of elements nearest to a point in which it is looked for, before all of them, and how far it may be outside a
#: curved one.
_NEAREST, _OUTSIDE = (12, 200), 0.2
#: Newton's method ends when a step changes the flow by less than this share, or after so many.
_CONVERGED, _STEPS = 1e-6, 12
#: Relative residual at which conjugate gradients end.
_RESIDUAL = 1e-10


# --- meshes --------------------------------------------------------------------------------------


def box(problem: Problem, *ticks: np.ndarray) -> Any:
    """A mesh of the box: in [0, 1], where the cells along each axis end."""
    scaled = [a + (b - a) * t for a, b, t in zip(problem.lower, problem.upper, ticks, strict=True)]
    return {1: skfem.MeshLine, 2: skfem.MeshTri, 3: skfem.MeshTet}[len(scaled)].init_tensor(*scaled)


def even(*counts: int) -> Callable[[Problem, int], Any]:
    """Even cells, by as many along the axes for each of the size."""
    return lambda problem, n: box(problem, *(np.linspace(0, 1, c * n + 1) for c in counts))


def around_peak(problem: Problem, n: int) -> Any:
    """Two thirds of the cells within 0.15 of the peak, in widths of the box."""
    ticks = []
    for at, a, b in zip(problem.at, problem.lower, problem.upper, strict=True):
        middle = (at - a) / (b - a)
        ticks.append(np.interp(np.linspace(0, 1, n + 1), [0, 1 / 6, 5 / 6, 1], [0, middle - 0.15, middle + 0.15, 1]))
    return box(problem, *ticks)


def shishkin(degree: int) -> Callable[[Problem, int], Any]:
    """Half of the cells in the layer, of width (p + 1) eps log n (Shishkin); half as many along it."""

    def mesh(problem: Problem, n: int) -> Any:
        width = min(0.5, (degree + 1) * problem.eps * np.log(n))
        across = np.interp(np.linspace(0, 1, n + 1), [0, 0.5, 1], [0, 1 - width, 1])
        return box(problem, across, np.linspace(0, 1, n // 2 + 1))

    return mesh


def around_corner(degree: int) -> Callable[[Problem, int], Any]:
    """The L, cells at distance r^q from the corner, with the least q at which the singularity costs no order."""

    def mesh(problem: Problem, n: int) -> Any:
        r = np.linspace(0, 1, n + 1)[1:] ** (1.5 * degree)
        ticks = np.concatenate([-r[::-1], [0.0], r])
        square = skfem.MeshTri.init_tensor(ticks, ticks)
        x, y = square.p[:, square.t].mean(1)
        return square.remove_elements(np.nonzero((x > 0) & (y < 0))[0])

    return mesh


def star(problem: Problem, n: int) -> Any:
    """The disk refined n times, pulled to the radius of the star; sides on the boundary are quadratics."""
    disk = skfem.MeshTri.init_circle(n)
    x = _pulled(problem, disk.p, np.hypot(*disk.p) ** 2)
    curved = skfem.MeshTri2.from_mesh(skfem.MeshTri(x, disk.t))
    nodes = curved.doflocs.copy()
    middles = curved.dofs.facet_dofs[0, curved.boundary_facets()]
    nodes[:, middles] = _pulled(problem, nodes[:, middles] / np.hypot(*nodes[:, middles]), 1.0)
    return skfem.MeshTri2(nodes, curved.t)


def _pulled(problem: Problem, x: np.ndarray, share: Any) -> np.ndarray:
    radius = problem.radius(torch.from_numpy(np.arctan2(x[1], x[0]))).numpy()
    return x * (problem.mean + share * (radius - problem.mean))


def ball(problem: Problem, n: int) -> Any:
    return skfem.MeshTet2.init_ball(n)


# --- linear equations ----------------------------------------------------------------------------


def solve(problem: Problem, mesh: Any, element: Any, solver: Callable | None = None) -> Answer:
    """Solve a linear equation of second order on a mesh, by a direct solver if no other is given."""
    basis = skfem.Basis(mesh, element)
    A, b = assembled(problem, basis)
    given = _given(problem, basis)
    u = np.zeros(basis.N)
    u[given] = _values(problem.boundary_values, basis.doflocs[:, given])
    u = skfem.solve(*skfem.condense(A, b, x=u, D=given), solver=solver or direct)
    return Answer(basis.N, lambda x: torch.from_numpy(evaluated(basis, u, x.numpy()))[:, None])


def _values(function: Callable[[Tensor], Tensor], x: np.ndarray) -> np.ndarray:
    """A function of points [N, d] at places [d, ...]."""
    return function(torch.from_numpy(x.reshape(len(x), -1).T.copy())).numpy().reshape(x.shape[1:])


def _given(problem: Problem, basis: Any) -> np.ndarray:
    """Unknowns on those parts of the boundary where u is given."""
    if problem.forms == ("soft",):  # a boundary of its own
        return basis.get_dofs().all()
    found = [np.empty(0, int)]
    for axis, side in problem.faces:
        at = float(problem.domain[side, axis])
        found.append(basis.get_dofs(lambda x, axis=axis, at=at: np.isclose(x[axis], at)).all())
    return np.unique(np.concatenate(found))


def assembled(problem: Problem, basis: Any) -> tuple[Any, np.ndarray]:
    """Matrix and right-hand side: the residual ``r + c0 u + c1 . grad u + c2 . D^2 u`` times all functions.

    Raises
    ------
    ValueError
        If the factors of second derivatives are not constant.
    """
    places = basis.global_coordinates().value
    r, c0, c1, c2 = (None if c is None else _short(c.reshape(*c.shape[:-2], *places.shape[1:]))
                     for c in _coefficients(problem, places))  # fmt: skip
    if c2 is not None and c2.ndim > 1:
        raise ValueError(f"the second derivatives of problem {problem.name!r} must have constant factors")

    def form(u: Any, v: Any, _: Any) -> Any:
        total = 0.0 * u * v
        if c0 is not None:
            total = total + c0 * u * v
        for j in range(len(places)):
            if c1 is not None and np.any(c1[j]):
                total = total + c1[j] * u.grad[j] * v
            if c2 is not None and c2[j]:
                total = total - c2[j] * u.grad[j] * v.grad[j]
        return total

    A = skfem.BilinearForm(form).assemble(basis)
    return A, skfem.LinearForm(lambda v, _: -r * v).assemble(basis)


def _coefficients(problem: Problem, places: np.ndarray) -> list[np.ndarray | None]:
    """r [N], c0 [N], c1 [d, N] and c2 [d, N] at places [d, ...], with ``...`` two axes of the result's."""
    x = torch.from_numpy(places.reshape(len(places), -1).T.copy())
    n, d = x.shape
    shapes = [(n, 1), (n, 1, d), (n, 1) if problem.want == "laplacian" else (n, 1, d)]
    number = {"value": 1, "gradient": 2}.get(problem.want, 3)
    zero = Jet(problem.want, *(torch.zeros(shape, dtype=torch.float64) for shape in shapes[:number]))
    block = Block(problem.name, x, problem.want, lambda u: problem.residual(x, u), 1.0)
    r, coefficients = linearise(block, (zero,), {})
    c0, c1, c2 = coefficients[0][0][0]
    if c2 is not None and problem.want == "laplacian":
        c2 = c2[:, None].expand(n, d)
    flat = [r[0], c0, *(c if c is None else c.T for c in (c1, c2))]
    return [None if c is None else c.numpy().reshape(*c.shape[:-1], *places.shape[1:]) for c in flat]


def _short(c: np.ndarray) -> np.ndarray:
    """Without the axes of elements and points, if it is the same at all of them."""
    first = c[..., :1, :1]
    return first[..., 0, 0] if bool((c == first).all()) else c


def direct(A: Any, b: np.ndarray) -> np.ndarray:
    """By SuperLU, with the ordering for the pattern of a symmetric matrix."""
    options = {"SymmetricMode": True}
    return sparse.splu(A.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.01, options=options).solve(b)


def pivoting(A: Any, b: np.ndarray) -> np.ndarray:
    """By SuperLU, for matrices with zeros on the diagonal."""
    return sparse.splu(A.tocsc()).solve(b)


def multigrid(A: Any, b: np.ndarray) -> np.ndarray:
    """By conjugate gradients with smoothed aggregation (pyamg), for a definite symmetric matrix."""
    import pyamg

    sign = np.sign(A.diagonal().sum())
    hierarchy = pyamg.smoothed_aggregation_solver(sign * A.tocsr())
    return hierarchy.solve(sign * b, tol=_RESIDUAL, accel="cg", maxiter=300)


def evaluated(basis: Any, u: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Values [N] at points [N, d], beside a curved boundary by the nearest element's polynomials."""
    cells, local = located(basis, x)
    values = np.zeros(len(x))
    for k in range(basis.Nbfun):
        phi = basis.elem.gbasis(basis.mapping, local, k, tind=cells)[0]
        values += u[basis.element_dofs[k, cells]] * np.ravel(np.asarray(phi))
    return values


def located(basis: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The elements [N] in which points [N, d] are, and their coordinates [d, N, 1] there.

    scikit-fem has a search, but none that serves points between the boundary and the sides of elements.
    """
    mesh, d = basis.mesh, x.shape[1]
    middles = mesh.p[:, mesh.t[: d + 1]].mean(1).T
    tree = cKDTree(middles)
    cells, local = np.zeros(len(x), int), np.zeros((d, len(x)))
    open_, limit = np.arange(len(x)), 1e-9 if mesh.affine else _OUTSIDE
    for number in (*_NEAREST, len(middles)):
        near = tree.query(x[open_], min(number, len(middles)))[1].reshape(len(open_), -1)
        cells[open_], local[:, open_], outside = _nearest(basis.mapping, mesh.affine, near, x[open_])
        open_ = open_[outside > limit]
        if not len(open_):
            return cells, local[:, :, None]
    raise ValueError(f"{len(open_)} points are in no element of the mesh, the first is {x[open_[0]]}")


def _nearest(mapping: Any, affine: bool, near: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of elements [N, k] near points [N, d]: the best, the coordinates [d, N] there, how far outside they are."""
    cells, d = near.ravel(), x.shape[1]
    wanted = np.repeat(x, near.shape[1], 0).T[:, :, None]
    local = np.full(wanted.shape, 1 / (d + 1))
    for _ in range(1 if affine else 8):
        step = np.einsum("ijkl,jkl->ikl", mapping.invDF(local, cells), wanted - mapping.F(local, cells))
        local = np.clip(local + step, -10, 11) if affine else np.clip(local + step, -1, 2)
    outside = np.maximum(-local.min(0), local.sum(0) - 1)[:, 0].reshape(near.shape)
    rows, best = np.arange(len(x)), outside.argmin(1)
    return near[rows, best], local.reshape(d, *near.shape)[:, rows, best], outside[rows, best]


# --- Kovasznay's flow ----------------------------------------------------------------------------


def flow(problem: Problem, mesh: Any, element: Any, below: Any) -> Answer:
    """Steady Navier-Stokes by Newton's method from rest; the pressure has the element ``below``."""
    fine = skfem.Basis(mesh, element, intorder=3 * element.maxdeg)
    coarse = fine.with_element(below)
    viscous = skfem.BilinearForm(lambda u, v, _: dot(grad(u), grad(v)) / problem.re).assemble(fine)
    slopes = [skfem.BilinearForm(lambda p, v, _, j=j: -p * v.grad[j]).assemble(coarse, fine) for j in range(2)]
    moved = skfem.BilinearForm(lambda u, v, w: (w.a * u.grad[0] + w.b * u.grad[1]) * v)
    scaled = skfem.BilinearForm(lambda u, v, w: w.c * u * v)
    edge = fine.get_dofs().all()
    n, fixed = fine.N, np.concatenate([edge, fine.N + edge, [2 * fine.N]])  # the pressure is free up to a constant
    x = np.zeros(2 * n + coarse.N)
    exact = problem.boundary_values(torch.from_numpy(fine.doflocs[:, edge].T.copy())).numpy()
    x[edge], x[n + edge] = exact[:, 0], exact[:, 1]
    for _ in range(_STEPS):
        parts = x[:n], x[n : 2 * n]
        a, b = map(fine.interpolate, parts)
        C = viscous + moved.assemble(fine, a=a, b=b)
        M = [[scaled.assemble(fine, c=u.grad[j]) for j in range(2)] for u in (a, b)]
        r = np.concatenate([*(C @ u + S @ x[2 * n :] for u, S in zip(parts, slopes, strict=True)),
                            sum(S.T @ u for u, S in zip(parts, slopes, strict=True))])  # fmt: skip
        K = skfem.bmat([[C + M[0][0], M[0][1], slopes[0]], [M[1][0], C + M[1][1], slopes[1]],
                        [slopes[0].T, slopes[1].T, None]], "csr")  # fmt: skip
        step = skfem.solve(*skfem.condense(K, -r, D=fixed), solver=pivoting)
        x = x + step
        if np.linalg.norm(step) < _CONVERGED * np.linalg.norm(x):
            break
    rim = coarse.get_dofs().all()
    known = problem.boundary_values(torch.from_numpy(coarse.doflocs[:, rim].T.copy())).numpy()[:, 2]
    x[2 * n :] += np.mean(known - x[2 * n + rim])

    def u(at: Tensor) -> Tensor:
        of = [(fine, x[:n]), (fine, x[n : 2 * n]), (coarse, x[2 * n :])]
        return torch.from_numpy(np.stack([evaluated(basis, part, at.numpy()) for basis, part in of], 1))

    return Answer(len(x), u)


# --- ladders -------------------------------------------------------------------------------------

#: By problem: the meshes for elements of a degree, and their sizes for degrees 2 and 4.
MESHES: dict[str, tuple[Callable[[int], Callable[[Problem, int], Any]], tuple[int, ...], tuple[int, ...]]] = {
    "poisson": (lambda p: even(1, 1), (8, 16, 32, 64), (2, 4, 8, 16, 32)),
    "sharp-poisson": (lambda p: around_peak, (12, 24, 48, 96), (6, 12, 24, 48)),
    "lshape": (around_corner, (4, 8, 16, 32), (2, 4, 8, 16)),
    "helmholtz": (lambda p: even(1, 2), (8, 16, 32, 64), (3, 6, 12, 24)),
    "convection-diffusion": (shishkin, (16, 32, 64, 128), (8, 16, 32, 64)),
    "regression": (lambda p: even(1), (8, 16, 64, 256), (2, 4, 8, 16, 64)),
    "heat": (lambda p: even(1, 1), (8, 16, 32, 64), (2, 4, 8, 16, 32)),
    "heat2d": (lambda p: even(1, 1, 1), (4, 6, 8, 10), ()),
    "kovasznay": (lambda p: even(1, 1), (8, 16, 32), (4, 8, 16)),
    "star": (lambda p: star, (2, 3, 4, 5, 6), (1, 2, 3, 4, 5)),
    "disk": (lambda p: star, (2, 3, 4, 5, 6), (1, 2, 3, 4, 5)),
    "ball": (lambda p: ball, (1, 2, 3), ()),
}


def element(dim: int, degree: int) -> Any:
    """Lagrange's element of a degree on intervals, triangles or tetrahedra."""
    if dim == 1:
        return skfem.ElementLineP2() if degree == 2 else skfem.ElementLinePp(degree)
    names = {2: "ElementTriP", 3: "ElementTetP"}
    return getattr(skfem, f"{names[dim]}{degree}")()


def _solve(problem: Problem, degree: int, n: int, solver: Callable | None = None) -> Answer:
    mesh, dim = MESHES[problem.name][0](degree)(problem, n), len(problem.lower)
    if problem.outputs > 1:
        return flow(problem, mesh, element(dim, degree), element(dim, degree - 1))
    return solve(problem, mesh, element(dim, degree), solver)


class Elements:
    """The method of one degree and one solver."""

    def __init__(self, name: str, about: str, degree: int, solver: Callable | None = None, needs: str = "skfem"):
        self.NAME, self.ABOUT = name, about
        self.degree, self.solver, self.needs = degree, solver, needs

    def ladder(self, name: str, problem: Problem) -> list[Rung]:
        if self.solver is not None and name != "ball":  # in two dimensions a direct solver is faster
            return []
        _, *sizes = MESHES.get(name, (None, (), ()))
        ladder = sizes[self.degree // 4]
        if ladder and not all(map(importlib.util.find_spec, ("skfem", self.needs))):
            raise ImportError(f'{self.NAME} need scikit-fem and pyamg: pip install "bumpnet_fast[bench]"')
        ladder = (*ladder, 4) if self.solver is not None else ladder
        return [Rung(f"mesh {n}", [functools.partial(_solve, problem, self.degree, n, self.solver)]) for n in ladder]


P2 = Elements(
    "P2 elements",
    "scikit-fem: triangles or tetrahedra, graded to layers, peaks and corners, solved by SuperLU; Kovasznay's flow by "
    "Taylor-Hood elements and Newton's method; time is one more axis",
    2,
)
P4 = Elements("P4 elements", "the same of degree 4; scikit-fem has none on tetrahedra", 4)
MULTIGRID = Elements(
    "P2 elements, multigrid",
    "the same of degree 2 with conjugate gradients and smoothed aggregation (pyamg), in three dimensions",
    2,
    multigrid,
    "pyamg",
)
