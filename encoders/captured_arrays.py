"""Arrays that a traced function closes over, as arguments of its program: kept once, however many programs there are.

JAX writes what a function closes over into its program as constants. A codec's tables, tens of megabytes, would then be
held once for every compiled shape, in memory and in the cache of compiled programs, and no other memory's program could
be used, although only the tables differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

SMALL = 1 << 16
"""Arrays of fewer bytes stay constants, which the compiler may use."""


class CapturedArrays:
    """The large arrays that functions close over, each kept once.

    `put` brings an array to where programs run.
    """

    def __init__(self, put: Callable[[Any], jax.Array] = jax.device_put) -> None:
        self._put = put
        self._kept: list[tuple[np.ndarray[Any, Any], jax.Array]] = []

    def of(
        self, function: Callable[..., jax.Array], *inputs: Any
    ) -> tuple[tuple[jax.Array, ...], Callable[..., jax.Array]]:
        """(arrays, f) with f(arrays, *x) equal to function(*x), which returns one array, for x shaped as `inputs`.

        f may be traced again, also inside `jax.shard_map` with `check_vma=False`.
        """
        traced = jax.make_jaxpr(function)(*inputs)
        places = [place for place, const in enumerate(traced.consts) if np.asarray(const).nbytes >= SMALL]
        arrays = tuple(self._once(np.asarray(traced.consts[place])) for place in places)

        def call(given: tuple[jax.Array, ...], *inputs: jax.Array) -> jax.Array:
            constants = list(traced.consts)
            for place, array in zip(places, given, strict=True):
                constants[place] = array
            [result] = jax.core.eval_jaxpr(traced.jaxpr, constants, *inputs)
            found: jax.Array = result
            return found

        return arrays, call

    def _once(self, array: np.ndarray[Any, Any]) -> jax.Array:
        for known, kept in self._kept:
            if known.shape == array.shape and known.dtype == array.dtype and known.tobytes() == array.tobytes():
                return kept
        self._kept.append((array, self._put(array)))
        return self._kept[-1][1]
