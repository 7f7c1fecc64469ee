"""One step of training: gradients of a batch, accumulated and over all local devices, and the optimiser's update.

Weights that are trained are kept in float32 and cast to the reader's compute dtype product by product, gradients
included (`encoders.primitives.contract`). Only they are differentiated. The step is one jitted function per batch
shape; its randomness follows from the seed and the step's number, so that a resumed run takes the same steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ... import UsageError
from ..model import Decode, Params, Reader
from .losses import LossSettings, Questions, Sums, Totals, question_losses, totals, weighted

Weights = dict[str, jax.Array]


class TrainState(NamedTuple):
    """All that a step changes: `step` int32, steps taken; `weights` float32 by dotted name; the optimiser's state."""

    step: jax.Array
    weights: Weights
    optimiser: Any


class StepLosses(NamedTuple):
    """Means over a step's batch, float32 scalars: the loss, its four parts unweighted, the gradient's norm."""

    loss: jax.Array
    cross_entropy: jax.Array
    distillation: jax.Array
    ranking: jax.Array
    pointing: jax.Array
    gradient_norm: jax.Array


class TrainStep:
    """Takes steps over batches of shape [A, B, ...]: A parts accumulated one after the other, B spread over devices.

    Args:
        reader: computes in its own dtype.
        tensors: all of the reader's weights by dotted name.
        trained: names of those that are trained.
        optimiser: e.g. `optimiser.make_optimiser(...)`.
        select: k, passages the decoder reads.
        settings: of the losses.
        dropout_rate: in the trained layers.
        seed: of dropout.
        decode: the codec's decode, None to make memory from passages' tokens.

    Raises UsageError when called if B is no multiple of the number of local devices.
    """

    def __init__(
        self,
        reader: Reader,
        tensors: Mapping[str, npt.NDArray[Any]],
        trained: frozenset[str],
        optimiser: optax.GradientTransformation,
        *,
        select: int,
        settings: LossSettings,
        dropout_rate: float,
        seed: int,
        decode: Decode | None,
    ) -> None:
        self._reader, self._optimiser = reader, optimiser
        self._select, self._settings, self._decode = select, settings, decode
        self._dropout_rate, self._seed = dropout_rate, seed
        mesh = Mesh(np.array(jax.local_devices()), ("data",))
        self._devices = mesh.size
        self._everywhere = NamedSharding(mesh, PartitionSpec())  # type: ignore[no-untyped-call]
        self._spread = NamedSharding(mesh, PartitionSpec(None, "data"))  # type: ignore[no-untyped-call]
        wanted = reader.shapes()
        # What stays as it is may be held in the compute dtype; `Reader.params` keeps small float32 parts exact.
        held = reader.tensors(reader.params(tensors))
        self._frozen: Weights = jax.device_put(
            {name: jnp.asarray(held[name]) for name in wanted if name not in trained}, self._everywhere
        )
        self._initial = {name: np.asarray(tensors[name], np.float32) for name in sorted(trained)}
        self._step = jax.jit(self._take, donate_argnums=0, out_shardings=self._everywhere)

    def start(self) -> TrainState:
        """The state before the first step."""
        weights: Weights = jax.device_put(self._initial, self._everywhere)
        state = TrainState(jnp.int32(0), weights, self._optimiser.init(cast(Any, weights)))
        return self.place(state)

    def place(self, state: TrainState) -> TrainState:
        """A state read from a checkpoint, put on every device."""
        placed: TrainState = jax.device_put(state, self._everywhere)
        return placed

    def __call__(self, state: TrainState, batch: Questions) -> tuple[TrainState, StepLosses]:
        """One step; `state` is used up. `batch` holds NumPy or JAX arrays [A, B, ...]."""
        rows = batch.tokens.shape[1]
        if rows % self._devices:
            raise UsageError(f"a batch of {rows} questions cannot be spread over {self._devices} devices evenly")
        new, losses = self._step(state, self._frozen, jax.device_put(batch, self._spread))
        return new, losses

    def _take(self, state: TrainState, frozen: Weights, batch: Questions) -> tuple[TrainState, StepLosses]:
        key = jax.random.fold_in(jax.random.key(self._seed), state.step)
        whole = totals(batch)

        def part(
            carried: tuple[Weights, Sums], numbered: tuple[jax.Array, Questions]
        ) -> tuple[tuple[Weights, Sums], None]:
            number, questions = numbered
            gradients, means = jax.grad(self._loss, has_aux=True)(
                state.weights, frozen, questions, whole, jax.random.fold_in(key, number)
            )
            return cast(Any, jax.tree.map(jnp.add, carried, (gradients, means))), None

        nothing = (jax.tree.map(jnp.zeros_like, state.weights), Sums(*(jnp.float32(0),) * 4))
        numbers = jnp.arange(batch.tokens.shape[0])
        (gradients, means), _ = jax.lax.scan(part, nothing, (numbers, batch))
        updates, optimiser = self._optimiser.update(cast(Any, gradients), state.optimiser, cast(Any, state.weights))
        weights = optax.apply_updates(cast(Any, state.weights), updates)
        losses = StepLosses(
            weighted(means, self._settings),
            *means,
            optax.tree.norm(gradients),
        )
        return TrainState(state.step + 1, cast(Weights, weights), optimiser), losses

    def _loss(
        self, weights: Weights, frozen: Weights, questions: Questions, whole: Totals, key: jax.Array
    ) -> tuple[jax.Array, Sums]:
        sums = question_losses(
            self._reader,
            merged(self._reader, weights, frozen),
            questions,
            select=self._select,
            settings=self._settings,
            decode=self._decode,
            dropout_rate=self._dropout_rate,
            key=key if self._dropout_rate > 0 else None,
        )
        means = Sums(
            sums.cross_entropy / whole.tokens,
            sums.distillation / whole.questions,
            sums.ranking / whole.questions,
            sums.pointing / whole.questions,
        )
        return weighted(means, self._settings), means


def merged(reader: Reader, weights: Mapping[str, Any], frozen: Mapping[str, Any]) -> Params:
    """Trained and frozen weights by dotted name as the reader's params, float32; traceable."""
    return reader.params({**frozen, **weights}, dtype=jnp.float32)
