"""The devices and processes that `train` and `sweep` are spread over."""

import os
from typing import Any

import jax
from jax.sharding import Mesh

from jaxnet import sharding
from jaxnet.cli.settings import Train, Training

# How many processes a scheduler started together, of which it tells each: all else jax finds there.
_SCHEDULED = "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"


def connect(options: Training) -> None:
    """Connect to the other processes, if there are any, before JAX looks for devices."""
    given = options.coordinator, options.num_processes, options.process_id
    scheduled = max(int(os.environ.get(name, 1)) for name in _SCHEDULED)
    if any(value is not None for value in given) and None in given:
        raise ValueError(
            "expected --coordinator, --num-processes and --process-id together, "
            f"got {', '.join(str(value) for value in given)}"
        )
    processes = options.num_processes or scheduled
    if options.devices is not None:
        if options.devices % processes:
            raise ValueError(
                f"--devices must be as many for each of {processes} processes, got {options.devices}"
            )
        _simulate(options.devices // processes)
    if processes > 1:
        sharding.connect(*given)


def _simulate(devices: int) -> None:
    """Let a CPU count as so many devices, where JAX has not looked for devices yet."""
    if jax.config.values["jax_num_cpu_devices"] != devices:
        try:
            jax.config.update("jax_num_cpu_devices", devices)
        except RuntimeError:  # it has: what there is will be told where it does not suffice
            return


def mesh(options: Training) -> Mesh | None:
    """Return the devices to spread a run over, or None for one alone."""
    model = options.model_devices if isinstance(options, Train) else 1
    if options.devices is None and model == 1 and jax.process_count() == 1:
        return None
    platform, _, index = (options.device or "").partition(":")
    if index:
        raise ValueError(f"--device must be without :{index} where there are several, got {options.device}")
    found = jax.devices(platform or None)
    devices = len(found) if options.devices is None else options.devices
    if devices % model:
        raise ValueError(f"--model-devices must divide the {devices} devices, got {model}")
    return sharding.mesh(devices // model, model, found)


def alike(options: Training, **more: Any) -> dict[str, Any]:
    """Return what every process must be told alike; the data are compared by `fit`, by their content."""
    saved = {name: value for name, value in options.saved().items() if name != "data"}
    return {"options": saved | {"resume": options.resume} | more}
