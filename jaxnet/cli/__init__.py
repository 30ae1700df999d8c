"""The commands `jaxnet train`, `jaxnet sweep`, `jaxnet check` and `jaxnet parity`."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

import jax

from jaxnet.cli import check, parity, run_folder, signals, sweep, train
from jaxnet.cli.options import Parser, shared

_COMMANDS = {"train": train, "sweep": sweep, "check": check, "parity": parity}


def entry() -> NoReturn:
    """Run the command of this process and end it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started the process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="replace")  # a terminal that has no ± gets a question mark
    code = main()
    if code not in (130, 143):
        sys.exit(code)
    # No finalization of the interpreter: it can crash in a compilation that a signal cut short.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 (fails), 2 (error), 3 (inconclusive), 130 (Ctrl-C) or 143 (SIGTERM)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    options = _parser().parse_args(argv)
    with signals.handled() as came:
        code = _run(options, argv)
        return 143 if code == 130 and signal.SIGTERM in came else code


def _run(options: argparse.Namespace, argv: list[str]) -> int:
    expected = ValueError, TypeError, OSError, ImportError, FloatingPointError, MemoryError
    try:
        if getattr(options, "resume", False):
            options = _resumed(options, argv)
        _check_device()
        code: int = options.run(options)
        return code
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("jaxnet: interrupted", file=sys.stderr)
        return 130
    except (*expected, jax.errors.JaxRuntimeError) as error:
        print(f"jaxnet {options.command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _check_device() -> None:
    try:
        jax.devices()
    # jax documents none: AssertionError for an absent CUDA, RuntimeError for others
    except Exception as error:
        raise ValueError(f"JAX finds no usable device: {error}") from None


def _resumed(options: argparse.Namespace, argv: list[str]) -> argparse.Namespace:
    """Return the options of the run to resume, checked as the command line's, which come after them."""
    known = set(vars(_parser().parse_args([options.command])))
    path, saved = run_folder.saved_arguments(options, known)
    try:
        _parser(_Saved).parse_args([options.command, *saved])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return _parser().parse_args([options.command, *saved, *argv[1:]])


class _Saved(Parser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser(kind: type[Parser] = Parser) -> Parser:
    parser = kind(prog="jaxnet", description=__doc__, allow_abbrev=False)
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
