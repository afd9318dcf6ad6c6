"""What PTX instructions compute, on numpy arrays with one entry per thread: no memory, no control flow.

``semantics(("fma", "rn", "f32"))`` gives the function, the types of its operands and of its result.  Results are those
of the PTX manual bit for bit, except that approximations (ex2, rcp) are rounded correctly; whoever executes them may
add an error.  Whatever is not listed here raises: better no answer than a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}

#: PTX types to numpy's.  Two packed float32 are twice as many entries.
TYPES = {
    "pred": np.bool_, "f32": np.float32, "f64": np.float64, "f32x2": np.float32,
    **{f"{kind}{bits}": UNSIGNED[bits] for kind in "bu" for bits in UNSIGNED},
    **{f"s{bits}": SIGNED[bits] for bits in SIGNED},
}  # fmt: skip


class Unknown(NotImplementedError):
    """An instruction, a modifier or an operand that the interpreter does not know."""


class Semantics(NamedTuple):
    function: Callable
    sources: tuple[str, ...]
    result: str
    approximate: bool = False


def bits_of(type_name: str) -> int:
    return 64 if type_name == "f32x2" else 1 if type_name == "pred" else int(type_name[1:])


def is_float(type_name: str) -> bool:
    return type_name.startswith("f")


def raw(values):
    """The bits, as unsigned integers."""
    return values.view(UNSIGNED[8 * values.dtype.itemsize])


def flush(values):
    """ftz: subnormal numbers become zeros of the same sign."""
    tiny = np.abs(values) < np.finfo(np.float32).tiny
    return np.where(tiny, np.copysign(np.float32(0), values), values)


# --- multiplication and addition with one rounding -------------------------------------------------


def _two_sum(a, b):
    """a + b rounded, and what the rounding lost."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _two_product(a, b):
    """a b rounded, and what the rounding lost: halves of 26 bits multiply without rounding (Dekker)."""

    def halves(v):
        shifted = 134217729.0 * v
        high = shifted - (shifted - v)
        return high, v - high

    product = a * b
    (a1, a2), (b1, b2) = halves(a), halves(b)
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def _to_odd(total, lost):
    """``total`` rounded to odd instead: a second rounding, to fewer bits, then acts as if it were the only one."""
    even = (total.view(np.int64) & 1) == 0
    outwards = (lost > 0) == (total > 0)
    inexact = (lost > 0) | (lost < 0)  # not where it is NaN
    step = np.where(even & inexact, np.where(outwards, 1, -1), 0)
    return (total.view(np.int64) + step).view(np.float64)


def fma32(x, y, z):
    """The product is exact in double; the sum is rounded to odd there, so that only the last rounding counts."""
    product = x.astype(np.float64) * y.astype(np.float64)
    return _to_odd(*_two_sum(product, z.astype(np.float64))).astype(np.float32)


def fma64(x, y, z):
    """Boldo and Melquiond 2008: exact product and sums, the small parts added to odd.  Beyond 2^996, or where products
    lose digits below 2^-1022, it is rounded twice."""
    x, y, z = np.broadcast_arrays(x, y, z)
    high, low = _two_product(x, y)
    middle, rest = _two_sum(z, low)
    top, below = _two_sum(high, middle)
    exact = top + _to_odd(*_two_sum(rest, below))
    return np.where(np.isfinite(exact) & (exact != 0), exact, x * y + z)  # infinities, and the sign of zero


# --- one function per opcode: modifiers and type to semantics --------------------------------------


def _same(count, function):
    """All operands and the result of one type."""
    return lambda modifiers, kind: Semantics(function, (kind,) * count, kind)


def _multiply(modifiers, kind):
    if is_float(kind):
        return Semantics(np.multiply, (kind, kind), kind)
    if "wide" in modifiers:
        double = f"{kind[0]}{2 * bits_of(kind)}"
        large = TYPES[double]
        return Semantics(lambda x, y: x.astype(large) * y.astype(large), (kind, kind), double)
    if "lo" in modifiers:
        return Semantics(np.multiply, (kind, kind), kind)
    if "hi" in modifiers and bits_of(kind) == 32:
        large, small = TYPES[f"{kind[0]}64"], TYPES[kind]
        return Semantics(lambda x, y: ((x.astype(large) * y.astype(large)) >> 32).astype(small), (kind, kind), kind)
    raise Unknown("this product")


def _fused(modifiers, kind):
    if not is_float(kind):
        product = _multiply(modifiers, kind)
        return Semantics(lambda x, y, z: product.function(x, y) + z, (kind, kind, product.result), product.result)
    return Semantics(fma64 if kind == "f64" else fma32, (kind,) * 3, kind)


def _divide(modifiers, kind):
    if is_float(kind):
        return Semantics(np.divide, (kind, kind), kind, approximate=bool({"full", "approx"} & set(modifiers)))
    return Semantics(lambda x, y: (x - np.fmod(x, y)) // y, (kind, kind), kind)  # towards zero


def _extreme(ignoring, passing_on, of_zeros):
    """min and max: a NaN counts only with .NaN, and -0 is less than +0."""

    def make(modifiers, kind):
        if not is_float(kind):
            return Semantics(passing_on, (kind, kind), kind)
        choose = passing_on if "NaN" in modifiers else ignoring

        def function(x, y):
            return np.where(x == y, of_zeros(raw(x), raw(y)).view(x.dtype), choose(x, y))

        return Semantics(function, (kind, kind), kind)

    return make


def _shift(function):
    """Amounts past the width count as the width."""

    def make(modifiers, kind):
        last = bits_of(kind) - 1

        def shifted(x, n):
            once = function(x, np.minimum(n, last).astype(x.dtype))
            return np.where(n > last, function(once, x.dtype.type(1)), once)

        return Semantics(shifted, (kind, "u32"), kind)

    return make


def _extract_bits(modifiers, kind):
    """Of a signed type, the last bit that is taken is the sign."""
    if bits_of(kind) != 32:
        raise Unknown("bits of this type")
    large = TYPES[f"{kind[0]}64"]

    def function(x, first, length):
        up = (64 - np.minimum(length & 0xFF, 32)).astype(large)
        shifted = x.astype(large) >> np.minimum(first & 0xFF, 63).astype(large)
        return np.where(up < 64, (shifted << up % 64) >> up % 64, large(0)).astype(x.dtype)

    return Semantics(function, (kind, "u32", "u32"), kind)


def _select(modifiers, kind):
    return Semantics(lambda x, y, p: np.where(p, x, y), (kind, kind, "pred"), kind)


_COMPARE = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
            "ge": np.greater_equal}  # fmt: skip
_BELOW_ABOVE = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


def _set_predicate(modifiers, kind):
    """Comparisons with a NaN are false, those whose name ends in u (for unordered) true."""
    [name] = modifiers - {"ftz"}
    sources = (kind, kind)
    if not is_float(kind):
        return Semantics(_COMPARE[_BELOW_ABOVE.get(name, name)], sources, "pred")

    def unordered(x, y):
        return np.isnan(x) | np.isnan(y)

    if name in ("nan", "num"):
        return Semantics(unordered if name == "nan" else lambda x, y: ~unordered(x, y), sources, "pred")
    if name.endswith("u"):
        compare = _COMPARE[name[:-1]]
        return Semantics(lambda x, y: compare(x, y) | unordered(x, y), sources, "pred")
    compare = _COMPARE[name]
    return Semantics(lambda x, y: compare(x, y) & ~unordered(x, y), sources, "pred")


_TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def _narrow(x, direction):
    """float64 to float32, by default to the nearest."""
    near = x.astype(np.float32)
    if direction == "rn":
        return near
    over = np.abs(near) > np.abs(x) if direction == "rz" else near > x if direction == "rm" else near < x
    goal = {"rz": 0, "rm": -np.inf, "rp": np.inf}[direction]
    return np.where(over, np.nextafter(near, np.float32(goal)), near)


def _convert(modifiers, kind):
    source, result = kind
    target = TYPES[result]
    if is_float(source) and not is_float(result):  # saturates; a NaN becomes zero
        [direction] = modifiers - {"ftz"}
        whole, limits = _TO_INTEGER[direction], np.iinfo(target)

        def function(x):
            inside = (x > float(limits.min)) & (x < float(limits.max))
            cut = np.where(x > 0, limits.max, limits.min).astype(target)
            return np.where(np.isnan(x), target(0), np.where(inside, whole(np.where(inside, x, 0)).astype(target), cut))

    elif (source, result) == ("f64", "f32"):
        [direction] = modifiers - {"ftz"}

        def function(x):
            return _narrow(x, direction)

    elif source == result and is_float(source):
        [direction] = modifiers - {"ftz"}
        function = _TO_INTEGER[direction]
    elif modifiers - {"rn", "ftz"}:
        raise Unknown("this rounding")
    else:

        def function(x):
            return x.astype(target)

    return Semantics(function, (source,), result)


def _to_tf32(x):
    """13 bits less, ties away from zero."""
    return np.where(np.isfinite(x), ((raw(x) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32), x)


def _exp2(modifiers, kind):
    return Semantics(lambda x: np.exp2(x.astype(np.float64)).astype(x.dtype), (kind,), kind, approximate=True)


def _reciprocal(modifiers, kind):
    return Semantics(lambda x: x.dtype.type(1) / x, (kind,), kind, approximate="approx" in modifiers)


#: Opcode to what makes its semantics, and the modifiers that are understood.
_TABLE = {
    "add": (_same(2, np.add), "rn ftz"),
    "sub": (_same(2, np.subtract), "rn ftz"),
    "mul": (_multiply, "rn ftz lo hi wide"),
    "fma": (_fused, "rn ftz"),
    "mad": (_fused, "rn ftz lo wide"),
    "div": (_divide, "rn ftz full approx"),
    "rem": (_same(2, np.fmod), ""),
    "neg": (_same(1, np.negative), "ftz"),
    "abs": (_same(1, np.abs), "ftz"),
    "sqrt": (_same(1, np.sqrt), "rn ftz"),
    "min": (_extreme(np.fmin, np.minimum, np.bitwise_or), "NaN ftz"),
    "max": (_extreme(np.fmax, np.maximum, np.bitwise_and), "NaN ftz"),
    "and": (_same(2, np.bitwise_and), ""),
    "or": (_same(2, np.bitwise_or), ""),
    "xor": (_same(2, np.bitwise_xor), ""),
    "not": (_same(1, np.invert), ""),
    "shl": (_shift(np.left_shift), ""),
    "shr": (_shift(np.right_shift), ""),
    "bfe": (_extract_bits, ""),
    "selp": (_select, ""),
    "setp": (_set_predicate, "eq ne lt le gt ge lo ls hi hs equ neu ltu leu gtu geu nan num ftz"),
    "cvt": (_convert, "rn rz rm rp rni rzi rmi rpi ftz"),
    "ex2": (_exp2, "approx ftz"),
    "rcp": (_reciprocal, "rn approx ftz"),
}


def _flushing(found: Semantics) -> Semantics:
    """The same with subnormal numbers flushed, on the way in and on the way out."""

    def function(*values):
        flushed = [flush(v) if is_float(kind) else v for v, kind in zip(values, found.sources, strict=True)]
        result = found.function(*flushed)
        return flush(result) if found.result.startswith("f32") else result

    return found._replace(function=function)


@cache
def semantics(opcode: tuple[str, ...]) -> Semantics:
    """Of an opcode split at the dots; raises ``Unknown``."""
    name, *rest = opcode
    if opcode == ("cvt", "rna", "tf32", "f32"):
        return Semantics(_to_tf32, ("f32",), "f32")
    if name not in _TABLE:
        raise Unknown("this opcode")
    make, known = _TABLE[name]
    count = 2 if name == "cvt" else 1
    kinds, modifiers = rest[-count:][::-1], set(rest[:-count])
    if not set(kinds) <= TYPES.keys() or not modifiers <= set(known.split()):
        raise Unknown("this type or modifier")
    found = make(modifiers, kinds[0] if count == 1 else tuple(kinds))
    return _flushing(found) if "ftz" in modifiers else found
