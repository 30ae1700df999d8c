"""The command line, read off the settings; argparse, as others take longer to load than a help may take."""

import argparse
import difflib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import jaxnet
from jaxnet import _extras
from jaxnet.cli.settings import COMMANDS, GROUPS, Option, Settings, Training, number, whole

_DESCRIPTION = """\
Small networks with gradients you can trust.

  jaxnet train --data digits    1,797 handwritten digits, a few seconds, nothing to download

Exit codes: 0 done, 1 a check failed, 2 an error, 3 inconclusive, 4 another process of the
run was lost, 130 Ctrl-C, 143 SIGTERM.
JAXNET_DATA_DIR names a folder that holds mnist/ and fashion-mnist/, which are downloaded else."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with what was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            message += _meant(found[1], re.findall(r"[\w-]+", found[2]))
        self.exit(2, f"{self.prog}: error: {message} (try {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse what is not known here, where the command's own options are, and not one parser above."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            own = re.findall(r"--[a-z-]+", self.format_usage())
            self.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown[0].split('=')[0], own)}")
        return options, unknown


class _Saved(Parser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class _Completion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *call: Any) -> None:
        try:
            shtab = _extras.require("shtab", "completion needs", "completion")
        except ImportError as error:
            parser.error(str(error))
        print(shtab.complete(parser, shell=call[1]))
        parser.exit()


def _meant(given: str, known: Sequence[str]) -> str:
    """Return `, did you mean ...?` of a similar name, or of one whose words begin with these letters."""
    initials = [name for name in known if "".join(re.findall(r"\b[a-z]", name)) == given.strip("-")]
    close = difflib.get_close_matches(given, known, n=1) or initials
    return f", did you mean {close[0]}?" if close else ""


def parser(kind: type[Parser] = Parser) -> Parser:
    """Return the parser of all commands, which finds only what is given: the defaults are the settings'."""
    shape: dict[str, Any] = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
    found = kind(prog="jaxnet", description=_DESCRIPTION, **shape)
    found.add_argument("--version", action="version", version=f"jaxnet {jaxnet.__version__}")
    shells, why = ("bash", "zsh", "fish"), "print what makes this shell complete commands and options"
    found.add_argument(
        "--completion", choices=shells, action=_Completion, help=why, default=argparse.SUPPRESS
    )
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        about = str(command.__doc__)
        lines = ["examples:", *(f"jaxnet {name} {line}".strip() for line in command.examples)]
        sub = commands.add_parser(name, help=about, description=about, epilog="\n  ".join(lines), **shape)
        options = list(command.options())
        for group in GROUPS:
            if own := [pair for pair in options if pair[1].group == group]:
                section = sub.add_argument_group(group)
                for field, option in own:
                    _add(section, field, option)
    return found


def _add(section: argparse._ArgumentGroup, field: Field[Any], option: Option) -> None:
    kind: Any = (
        get_args(field.type)[0] if get_origin(field.type) in (Union, UnionType) else field.type
    )  # of `| None`
    several, is_required = get_origin(kind) is tuple, field.default is MISSING
    kind = get_args(kind)[0] if several else kind
    parse = option.parse or {int: whole, float: number, Path: _path}.get(kind, _text)
    choices = get_args(kind) if get_origin(kind) is Literal else option.choices
    more: dict[str, Any] = {"type": parse, "choices": choices, "metavar": option.metavar}
    if kind is bool:
        more = {"action": "store_true"}
    elif option.group == "arguments":
        more["nargs"] = ("+" if is_required else "*") if several else (None if is_required else "?")
    elif several:
        more["nargs"] = "+"
    name = field.name if option.group == "arguments" else f"--{field.name.replace('_', '-')}"
    section.add_argument(name, default=argparse.SUPPRESS, help=_help(field, option), **more)


def _text(given: str) -> str:
    if not given:
        raise argparse.ArgumentTypeError("expected a value, got ''")
    return given


def _path(given: str) -> Path:
    return Path(_text(given))


def _help(field: Field[Any], option: Option) -> str:
    """Return the help with the default as one would type it."""
    default = field.default
    # By identity: 0 is a default to tell, and equals False.
    if any(default is nothing for nothing in (None, False, MISSING)):
        return option.help
    typed = " ".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{option.help} (default: {typed})"


def parse(argv: Sequence[str] | None, kind: type[Parser] = Parser) -> tuple[str, dict[str, Any]]:
    """Return the command and the options that are given; SystemExit, after one line, where they are wrong."""
    found = vars(parser(kind).parse_args(argv))
    # What argparse has converted of an argument that is not there.
    found = {name: value for name, value in found.items() if str(value) != argparse.SUPPRESS}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return str(given.pop("command")), given


def complete(command: str, given: dict[str, Any]) -> Settings:
    """Return the settings: what is given, else that of --config, of the run to resume, or the defaults."""
    kind = COMMANDS[command]
    path: Path | None = given.get("config")
    if path is not None:
        try:
            content = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"--config must be a file of options in TOML, got {path}: {error}") from None
        given = _checked(command, path, content) | given
    found = kind(**given)
    if isinstance(found, Training) and found.resume:
        from jaxnet.cli import run_folder

        found = kind(**_checked(command, *run_folder.saved_options(found)) | given)
    return found


def _checked(command: str, path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return saved options as the command line would read them; ValueError, naming the file."""
    known = list(COMMANDS[command].options())
    arguments = {field.name for field, option in known if option.group == "arguments"}
    flags, given = {field.name for field, _ in known if field.type is bool}, [command]
    for name, value in sorted(options.items(), key=lambda pair: pair[0] in arguments):
        flag = "--" if name in arguments else f"--{name.replace('_', '-')}"
        if name.replace("-", "_") in flags and not isinstance(value, bool):
            raise ValueError(f"{path}: argument {flag}: expected true or false, got {value!r}")
        if isinstance(value, list) or name in arguments:
            given += [flag, *map(str, value if isinstance(value, list) else [value])]
        elif value is not False:
            given.append(flag if value is True else f"{flag}={value}")
    try:
        return parse(given, _Saved)[1]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def as_toml(command: str, found: Settings) -> str:
    """Return the settings as --config takes them, each with its help; what has no value is commented out."""
    lines = [f"# jaxnet {command} --config FILE"]
    for field, option in found.options():
        if option.group != "this call":
            name, value = field.name.replace("_", "-"), getattr(found, field.name)
            # JSON's strings, numbers and lists are TOML's.
            told = json.dumps(value, default=str, ensure_ascii=False)
            lines += ["", f"# {_help(field, option)}", f"# {name} =" if value is None else f"{name} = {told}"]
    return "\n".join(lines)
