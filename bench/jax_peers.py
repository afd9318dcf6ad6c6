"""The training step in JAX, compiled as a whole: from the closed form, and by jvp of jvp of the value.

JAX is no requirement: ``pip install "bumpnet_fast[peers]"`` brings it.  Its CPU client takes its number of threads from
the environment when it starts, and cannot change it later: here it has one, so it takes part in cases of one thread.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

os.environ["NPROC"] = "1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()

import jax
import jax.numpy as jnp

from bumpnet_fast.core.rows import RowLayout
from bumpnet_fast.diagnostics.bench import RATE, Case, Stages, formula_residual, formula_value, weights

jax.config.update("jax_enable_x64", True)  # arrays keep the type they are given


def used_values(rows: jax.Array, frame: jax.Array) -> tuple[jax.Array, ...]:
    """Normals, centres, half sizes, sharpness and amplitudes, as ``speed.used_values`` gives them."""
    dim = frame.shape[1]
    layout = RowLayout(dim)
    p, skew = jnp.exp(rows[:, layout.sharpness]), rows[:, layout.skew]
    unit = jnp.broadcast_to(jnp.eye(dim, dtype=rows.dtype), (rows.shape[0], dim, dim))
    above = [(a, b) for a in range(dim) for b in range(a + 1, dim)]
    for m, (a, b) in enumerate(above):
        unit = unit.at[:, a, b].set(skew[:, m])
    normals: list[jax.Array] = []
    for k in range(dim):
        v = unit[:, k]
        for other in normals:
            v = v - (v * other).sum(-1, keepdims=True) * other
        normals.append(v / jnp.sqrt((v * v).sum(-1, keepdims=True)))
    length = jnp.sqrt((unit[:, 0] ** 2).sum(-1))
    c = frame[0] + (frame[1] - frame[0]) * (1 + jnp.tanh(rows[:, layout.centre])) / 2
    half = jnp.exp(rows[:, layout.size]) * length[:, None] / 2
    w = length[:, None, None] * jnp.stack(normals, 1) * frame[2]
    return w, c, half, p, rows[:, layout.amplitude][:, 0]


def analytic(rows: jax.Array, x: jax.Array, frame: jax.Array, f: jax.Array, want: str) -> jax.Array:
    return formula_residual(jnp.tanh, x, used_values(rows, frame), f, want)


def nested_jvp(rows: jax.Array, x: jax.Array, frame: jax.Array, f: jax.Array, want: str) -> jax.Array:
    """Forward over forward, along the coordinates that the residual asks for."""
    dim, (first, second) = x.shape[1], weights(want, x.shape[1])
    bumps = used_values(rows, frame)

    def u(x: jax.Array) -> jax.Array:
        return formula_value(jnp.tanh, x, bumps)

    def along(function: Callable, j: int) -> Callable:
        direction = jnp.zeros_like(x).at[:, j].set(1)
        return lambda x: jax.jvp(function, (x,), (direction,))[1]

    r = u(x) - f
    for i in range(dim):
        r = r + first[i] * along(u, i)(x) if first[i] else r
        for j in range(dim):
            r = r + second[i][j] * along(along(u, i), j)(x) if second[i][j] else r
    return r


def stages(residual: Callable[..., jax.Array], one: Case, device: str = "cpu") -> Stages:
    """As ``speed.torch_stages``; Adam is part of what is compiled."""
    x, rows, frame, f = (jnp.asarray(t.detach().numpy()) for t in one.arguments(device))

    def loss(rows: jax.Array) -> jax.Array:
        return (residual(rows, x, frame, f, one.want) ** 2).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def adam_step(rows, m, v, t):
        value, g = jax.value_and_grad(loss)(rows)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        change = (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return value, (rows - RATE * change).astype(rows.dtype), m.astype(rows.dtype), v.astype(rows.dtype)

    state: list[Any] = [rows + 0, jnp.zeros_like(rows), jnp.zeros_like(rows)]
    steps = 0

    def adam() -> jax.Array:
        nonlocal steps
        steps += 1
        value, *state[:] = adam_step(*state, jnp.asarray(steps, rows.dtype))
        return jax.block_until_ready(value)

    forward, backward = jax.jit(loss), jax.jit(jax.value_and_grad(loss))
    return Stages(lambda: jax.block_until_ready(forward(rows)), lambda: jax.block_until_ready(backward(rows)), adam)


CONTESTANTS = {
    "JAX jit analytic": functools.partial(stages, analytic),
    "JAX jit nested jvp": functools.partial(stages, nested_jvp),
}
