"""The command `jaxnet export`."""

from jaxnet import checkpoints
from jaxnet.cli import run_folder
from jaxnet.cli.settings import Export


def run(options: Export) -> int:
    """Write the network of a run for other programs, and say how to load it; return 0."""
    path = options.out or options.folder / f"model.{options.format}"
    trained = run_folder.trained(options.folder)
    saved = trained.saved
    if saved.sizes is None or not path.parent.is_dir():
        raise ValueError(f"--out must be a file in a folder that is there, got {path}")
    if options.out is not None and path.exists() and not options.overwrite:
        raise ValueError(f"{path} is there already: choose another --out, or --overwrite it")
    outputs = "numbers [n]" if trained.is_regression else f"probabilities [n, {saved.sizes[-1]}]"
    takes = f"takes x float32 [n, {saved.sizes[0]}], raw inputs times {saved.input_scale or 1:.4g}; "
    if options.format == "stablehlo":
        checkpoints.export_stablehlo(path, trained.model, saved.sizes[0])
        load = f'jax.export.deserialize(bytearray(open({str(path)!r}, "rb").read())).call(x)'
    else:
        checkpoints.save_params(
            path,
            saved.params,
            activation=saved.activation,
            input_scale=saved.input_scale,
            class_names=saved.class_names,
        )
        load = f"safetensors.numpy.load_file({str(path)!r})"
    print(f"written to {path}: {takes}gives {outputs}\n{load}")
    return 0
