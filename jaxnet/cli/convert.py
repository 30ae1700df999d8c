"""The command `jaxnet convert`."""

from pathlib import Path

from tqdm import tqdm

from jaxnet import shards
from jaxnet.cli.settings import Convert


def run(options: Convert) -> int:
    """Write the folder, or verify it, and say what it holds; return 0."""
    if options.verify:
        if options.folder is not None:
            raise ValueError(f"--verify is of one folder, got {options.source} and {options.folder}")
        folder = Path(options.source)
        train, test = shards.load(folder, verify=True)
    else:
        if options.folder is None:
            raise ValueError("expected DATA and the new FOLDER, got only DATA")
        folder = options.folder
        with tqdm(unit="rows", unit_scale=True, disable=None) as bar:
            train, test = shards.convert(
                options.source,
                folder,
                shard_bytes=options.shard_size * 10**6,
                target=options.target,
                test=options.test,
                tell=bar.update,
            )
    count = len(train.shards) + len(test.shards)
    print(
        f"{folder}: {len(train):,} training and {len(test):,} test examples in {count} shards"
        f"{', all as they were written' if options.verify else f'; jaxnet train --data {folder}'}"
    )
    return 0
