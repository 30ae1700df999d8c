"""What jaxnet asks of orbax: steps committed at once, and those that are no longer kept removed.

A step is one safetensors file: orbax's own array format writes a dozen, for three times the processor time.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from jaxnet import _tensors

FILE = Path("default", "state.safetensors")  # below the step's folder, "default" being orbax's name


class _Handler(ocp.CheckpointHandler):
    def save(self, directory: Any, args: Any) -> None:
        _tensors.write(Path(directory) / FILE.name, args.data)

    def restore(self, directory: Any, args: Any = None) -> bytes:
        return (Path(directory) / FILE.name).read_bytes()


@ocp.args.register_with_handler(_Handler, for_save=True)
@dataclasses.dataclass
class _Save(ocp.args.CheckpointArgs):
    data: bytes


@ocp.args.register_with_handler(_Handler, for_restore=True)
@dataclasses.dataclass
class _Restore(ocp.args.CheckpointArgs):
    pass


@dataclasses.dataclass
class _Keep:
    """Keep the last steps and the best one."""

    last: int
    best: Callable[[], int | None]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        return [step in steps[-self.last :] or step == self.best() for step in steps]


def manager(folder: Path, keep: int, best: Callable[[], int | None]) -> ocp.CheckpointManager:
    """Return the manager of the steps in `folder`: synchronous, as the caller has a thread for it."""
    options = ocp.CheckpointManagerOptions(
        preservation_policy=_Keep(keep, best),
        cleanup_tmp_directories=True,
        enable_async_checkpointing=False,
        save_root_metadata=False,
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, data: bytes) -> None:
    """Commit a step: its folder appears whole, and then those no longer kept go."""
    manager.save(step, args=_Save(data), force=True)
