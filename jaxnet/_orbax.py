"""What jaxnet asks of orbax: a folder with one safetensors file that is there whole or not at all.

Orbax's own array format writes a dozen files for each, and its manager looks through all of them at every
save: together seven times the processor time.
"""

import dataclasses
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from jaxnet import _tensors

FILE = "state.safetensors"


class _Handler(ocp.CheckpointHandler):
    def save(self, directory: Any, args: Any) -> None:
        _tensors.write(Path(directory) / FILE, args.data)

    def restore(self, directory: Any, args: Any = None) -> bytes:
        return (Path(directory) / FILE).read_bytes()


@ocp.args.register_with_handler(_Handler, for_save=True)
@dataclasses.dataclass
class _Save(ocp.args.CheckpointArgs):
    data: bytes


@ocp.args.register_with_handler(_Handler, for_restore=True)
@dataclasses.dataclass
class _Restore(ocp.args.CheckpointArgs):
    pass


def save(folder: Path, data: bytes) -> None:
    """Commit a checkpoint: its folder appears when all is in it."""
    with ocp.Checkpointer(_Handler()) as checkpointer:
        checkpointer.save(folder.absolute(), args=_Save(data), force=True)
