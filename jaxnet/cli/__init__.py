"""The commands `jaxnet train`, `jaxnet check` and `jaxnet parity`."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

import jax

from jaxnet.cli import check, parity, train
from jaxnet.cli.options import Parser, shared

_COMMANDS = {"train": train, "check": check, "parity": parity}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (fails), 2 (error), 3 (inconclusive), 130 (Ctrl-C)."""
    options = _parser().parse_args(argv)
    expected = ValueError, TypeError, OSError, ImportError, FloatingPointError, jax.errors.JaxRuntimeError
    try:
        jax.devices()
    except Exception as error:  # jax has several, down to a bare AssertionError, for a platform it cannot use
        print(f"jaxnet: error: JAX finds no usable device: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    try:
        return options.run(options)
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("jaxnet: interrupted", file=sys.stderr)
        return 130
    except expected as error:
        print(f"jaxnet {options.command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="jaxnet", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"jaxnet {version('jaxnet')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    form = argparse.ArgumentDefaultsHelpFormatter
    for name, command in _COMMANDS.items():
        sub = commands.add_parser(
            name,
            parents=[shared()] if getattr(command, "SHARED", True) else [],
            help=command.HELP,
            description=command.HELP,
            allow_abbrev=False,
            formatter_class=form,
        )
        command.add_options(sub.add_argument)
        sub.set_defaults(run=command.run)
    return parser
