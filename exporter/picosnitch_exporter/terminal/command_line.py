"""The command line as data, from its parser: what completions and the man page are made of."""

import argparse
import re
from dataclasses import dataclass
from typing import Final

_FILE_FLAG: Final = re.compile(r"\.(file|path)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """A flag, or what stands without one."""

    flags: tuple[str, ...]
    """Empty for a positional argument."""
    value: str
    """What its value is called; empty where it takes none."""
    choices: tuple[str, ...]
    is_file: bool
    is_repeatable: bool
    help: str

    @property
    def summary(self) -> str:
        """Its help, without the default."""
        return self.help.partition(" (default: ")[0].partition("; may be repeated")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command with its arguments; the program itself is one without a name."""

    name: str
    summary: str
    usage: str
    arguments: tuple[Argument, ...]
    examples: str


def describe(parser: argparse.ArgumentParser) -> tuple[Command, ...]:
    """The program, and then each of its commands."""
    commands = [_command("", parser, "")]
    for action in parser._actions:  # noqa: SLF001  (argparse has no other way to ask)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
            commands += [
                _command(name, chosen, helps[name]) for name, chosen in action.choices.items()
            ]
    return tuple(commands)


def _command(name: str, parser: argparse.ArgumentParser, summary: str) -> Command:
    arguments = [
        _argument(action)
        for action in parser._actions  # noqa: SLF001
        if not isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
    ]
    usage = " ".join(parser.format_usage().removeprefix("usage:").split())
    return Command(
        name=name,
        summary=summary or parser.description or "",
        usage=usage,
        arguments=tuple(arguments),
        examples=(parser.epilog or "").rstrip(),
    )


def _argument(action: argparse.Action) -> Argument:
    takes_value = action.nargs != 0
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest
    choices = tuple(map(str, action.choices or ()))
    if not choices and takes_value and "|" in metavar:
        choices = tuple(metavar.split("|"))
    flags = tuple(action.option_strings)
    return Argument(
        flags=flags,
        value=metavar if takes_value else "",
        choices=choices,
        is_file=takes_value
        and (metavar == "FILE" or any(_FILE_FLAG.search(flag) for flag in flags)),
        is_repeatable=isinstance(action, argparse._AppendAction),  # noqa: SLF001
        help=(action.help or "").replace("%%", "%"),
    )
