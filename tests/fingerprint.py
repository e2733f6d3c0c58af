"""What is kept of an output, to tell later whether it is still the same but for the noise of processors.

A form is a digest of everything exact: names, shapes, strings, and which values are absent. Numbers are projections of
the values on a few random directions, compared with a tolerance: processors add numbers up in different orders, and a
digest of rounded values flips whenever one of thousands lies near the edge of its rounding.
"""

import hashlib
import re
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

DIRECTIONS, TOLERANCE = 6, 1e-3  # of a value's root mean square; other processors' noise is below a hundredth of it
_DIGEST = re.compile(r"[0-9a-f]{16,}")


class Print(NamedTuple):
    """What is kept of an output: a digest of what is exact, and the projections of each array."""

    form: str
    numbers: list[list[float]]


class Collector:
    """Takes an output apart: tables, arrays, and what JSON can say. Digests in strings count as equal."""

    def __init__(self):
        self.form, self.arrays, self.scalars = [], [], []

    def add(self, output: Any) -> None:
        """Take a value or a structure of values."""
        if isinstance(output, pa.Table):
            output = {name: output[name].to_pylist() for name in output.column_names}
        if isinstance(output, dict):
            self.form.append(f"names {sorted(output)}")
            for name in sorted(output):
                self.add(output[name])
        elif isinstance(output, np.ndarray):
            values = output.astype(np.float64).ravel()
            absent = np.packbits(np.isnan(values)).tobytes().hex()
            self.form.append(f"array {output.shape} {absent if np.isnan(values).any() else ''}")
            self.arrays.append(values[~np.isnan(values)])
        elif isinstance(output, (list, tuple)):
            self._add_list(output)
        elif isinstance(output, float):
            self.form.append("number")
            self.scalars.append(output)
        else:
            self.form.append(f"{type(output).__name__} {_DIGEST.sub('#', str(output))}")

    def _add_list(self, items: list | tuple) -> None:
        self.form.append(f"list {len(items)}")
        values = _flat(items)
        if any(_is_number(x) for x in values) and all(x is None or _is_number(x) for x in values):
            self.add(np.array([np.nan if x is None else x for x in values], np.float64))
        else:
            for item in items:
                self.add(item)

    def print(self) -> Print:
        """The form and numbers of what was added; single floats of any size are looked at together, as logarithms."""
        scalars = np.array(self.scalars)
        arrays = [*self.arrays, np.sign(scalars) * np.log1p(1000 * np.abs(scalars))]
        digest = hashlib.blake2b("\n".join(self.form).encode(), digest_size=8).hexdigest()
        return Print(digest, [projections(values) for values in arrays if values.size])


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _flat(items: Any) -> list:
    return [x for item in items for x in _flat(item)] if isinstance(items, (list, tuple)) else [items]


def projections(values_N: np.ndarray) -> list[float]:
    """The root mean square, and the values on random directions, all of its scale."""
    directions_DN = np.random.default_rng(len(values_N)).normal(size=(DIRECTIONS, len(values_N)))
    numbers = [np.sqrt(np.mean(values_N**2)), *(directions_DN @ values_N / np.sqrt(len(values_N)))]
    return [float(f"{number:.5g}") for number in numbers]


def fingerprint(output: Any) -> Print:
    """The print of an output."""
    collector = Collector()
    collector.add(output)
    return collector.print()


def same(one: Print, other: Print) -> bool:
    """Whether two prints are of the same output but for the noise of processors."""
    if one.form != other.form or len(one.numbers) != len(other.numbers):
        return False
    scales = [TOLERANCE * max(map(abs, group)) + 1e-9 for group in one.numbers]
    return all(
        np.allclose(group, other_group, rtol=0, atol=scale)
        for group, other_group, scale in zip(one.numbers, other.numbers, scales, strict=True)
    )
