"""A run on the devices of a mesh: its task and its state put there, and what processes must agree on."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxnet.sharding import place, replicated, split_like
from jaxnet.training.state import Examples, PyTree, TrainState, num_examples
from jaxnet.training.task import Task


def described(task: Task, state: TrainState) -> dict[str, Any]:
    """Return what must be the same on every process of a run, the data by its content.

    Of a share only what it is like; of what is on disk the hashes of its shards, or 64 rows of files of one's
    own, which have none.
    """
    digest = hashlib.sha256()

    def add(leaf: Any, rows: bool) -> None:
        host = np.asarray(leaf)
        digest.update(f"{host.dtype}{host.shape[rows:]}".encode())
        if not rows:
            digest.update(np.ascontiguousarray(host).data)

    for name, part in task.parts.items():
        if name in task.on_disk:
            source = task.on_disk[name]
            told = [(shard.length, shard.sha256) for shard in source.shards]
            digest.update(repr((told, source.top)).encode())
            if any(sha256 is None for _, sha256 in told):
                for leaf in source.rows(np.linspace(0, len(source) - 1, 64).astype(int)):
                    add(leaf, rows=False)
        else:
            for leaf in jax.tree.leaves(part):
                add(leaf, rows=part.layout is not None and len(leaf) != part.layout.length)
        digest.update(str(num_examples(part)).encode())
    data, digest = digest.digest(), hashlib.sha256()
    for leaf in jax.tree.leaves((state, task.batches, task.subsets)):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        add(jax.random.key_data(leaf) if is_key else leaf, rows=False)
    names = "steps", "eval_parts", "eval_batch", "stretch", "early_stopping", "track"
    more = {name: getattr(task, name) for name in names}
    settings = task.settings() | more | {"metrics": sorted(task.metrics), "parts": list(task.parts)}
    return {"data": data, "settings": settings, "params, optimizer and key": digest.digest()}


def placed_task(task: Task) -> Task:
    """Return a task with its arrays on the devices of its mesh."""
    if task.mesh is None:
        return task
    everywhere = replicated(task.mesh)

    def placed(examples: Examples) -> Examples:
        how = examples.layout

        def put(leaf: np.ndarray) -> Array:
            if how is None:
                return place(leaf, everywhere)
            return how.place(leaf, 0 if len(leaf) == how.length else how.own_rows()[0])

        found: Examples = jax.tree.map(put, examples)
        return found

    batches = None if task.batches is None else place(task.batches, everywhere)
    parts = {n: e if n in task.on_disk else placed(e) for n, e in task.parts.items()}
    return task._replace(parts=parts, batches=batches)


def placed_state(state: TrainState, mesh: Mesh, shardings: PyTree) -> TrainState:
    """Return a state on the devices of a mesh: what is like a parameter lies as that does."""
    everywhere = replicated(mesh)
    params = jax.tree.map(place, state.params, shardings)
    own = split_like(state.params, shardings, state.opt_state, mesh)
    step, key, model_state = jax.tree.map(lambda leaf: place(leaf, everywhere), state[2:])
    return TrainState(params, jax.tree.map(place, state.opt_state, own), step, key, model_state)
