"""The commands `jaxnet train`, `jaxnet sweep`, `jaxnet check` and `jaxnet parity`."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, NoReturn

import jax

from jaxnet.cli import check, parity, run_folder, sweep, train
from jaxnet.cli.options import Parser, shared

_COMMANDS = {"train": train, "sweep": sweep, "check": check, "parity": parity}


def entry() -> NoReturn:
    """Run the command of this process and end it."""
    code = main()
    if code not in (130, 143):
        sys.exit(code)
    # No finalization of the interpreter: it can crash in a compilation that a signal cut short.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 (fails), 2 (error), 3 (inconclusive), 130 (Ctrl-C) or 143 (SIGTERM)."""
    options = _parser().parse_args(argv)
    try:
        jax.devices()
    except (
        Exception
    ) as error:  # jax documents none: AssertionError for an absent CUDA, RuntimeError for others
        print(f"jaxnet: error: JAX finds no usable device: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    with _terminations() as terminations:
        code = _run(options, argv)
    return 143 if terminations and code == 130 else code


def _run(options: argparse.Namespace, argv: Sequence[str] | None) -> int:
    expected = ValueError, TypeError, OSError, ImportError, FloatingPointError, jax.errors.JaxRuntimeError
    try:
        if getattr(options, "resume", False):
            options = _parser(run_folder.saved_options(options)).parse_args(argv)
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


@contextmanager
def _terminations() -> Iterator[list[int]]:
    """Make the first SIGTERM end the command as Ctrl-C does, and tell whether there was one.

    Either may arrive where what it raises goes nowhere, as in a garbage collection: then it comes again.
    """
    received: list[int] = []

    def end(number: int, frame: object) -> None:
        if not received:
            received.append(number)
            raise KeyboardInterrupt

    def again(lost: Any) -> None:
        if lost.exc_type is not KeyboardInterrupt:
            hook(lost)
        else:
            number = received.pop() if received else signal.SIGINT
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()

    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody handle signals
        yield received
        return
    before = signal.signal(signal.SIGTERM, end)
    hook, sys.unraisablehook = sys.unraisablehook, again
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook


def _parser(saved: dict[str, Any] | None = None) -> argparse.ArgumentParser:
    """Return the parser, the defaults of `train` being the options of the run to resume, if there is one."""
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
        sub.set_defaults(**(saved if saved and command in (train, sweep) else {}), run=command.run)
    return parser
