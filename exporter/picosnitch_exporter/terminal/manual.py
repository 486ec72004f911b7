"""`picosnitch-exporter man`: the man page, from the command line. Source: man(7), man-pages(7)."""

from collections.abc import Iterator

from picosnitch_exporter.terminal.command_line import Argument, Command

EXAMPLES = """\
examples:
  picosnitch-exporter man | man -l -
  picosnitch-exporter man > /usr/local/share/man/man1/picosnitch-exporter.1
"""
_FILES = (
    ("/etc/picosnitch-exporter/config.yaml", "The configuration, if there is one."),
    (
        "/var/lib/picosnitch",
        "The storage path: connection log, journal, and the socket that top reads.",
    ),
    ("/sys/fs/bpf/picosnitch", "What counts on in the kernel between two runs."),
)
_EXIT = (
    ("0", "fine"),
    ("1", "failed; doctor: run would fail"),
    ("2", "wrong usage or configuration"),
    ("130", "interrupted from the keyboard"),
)


def page(commands: tuple[Command, ...], *, version: str) -> str:
    """The page in roff; the first of the commands is the program itself."""
    return "\n".join(_lines(commands[0], commands[1:], version)) + "\n"


def _lines(program: Command, commands: tuple[Command, ...], version: str) -> Iterator[str]:
    name = "picosnitch-exporter"
    # Made from the command line; no date, so that the same version is the same page.
    yield f'.TH PICOSNITCH-EXPORTER 1 "" "{name} {_text(version)}"'
    yield ".SH NAME"
    yield f"{_text(name)} \\- network traffic of every executable, as Prometheus metrics"
    yield ".SH SYNOPSIS"
    for command in commands:
        yield f".B {_text(name)}"
        yield f"{_text(command.usage.removeprefix(name).strip())}"
        if command is not commands[-1]:
            yield ".br"
    yield ".SH DESCRIPTION"
    yield _text(program.summary)
    yield from _arguments(program)
    yield ".SH COMMANDS"
    for command in commands:
        yield f".SS {_text(command.name)}"
        yield _text(f"{command.summary[0].upper()}{command.summary[1:]}.")
        yield from _arguments(command)
        if command.examples:
            yield ".PP"
        yield from _examples(command.examples)
    yield ".SH EXIT STATUS"
    yield from _tagged(_EXIT)
    yield ".SH FILES"
    yield from _tagged(_FILES)
    yield from (".SH EXAMPLES", *_examples(program.examples))


def _arguments(command: Command) -> Iterator[str]:
    for argument in command.arguments:
        yield ".TP"
        yield _heading(argument)
        yield _text(argument.help or argument.value)


def _heading(argument: Argument) -> str:
    value = f"\\fI{_text(argument.value)}\\fR"
    if not argument.flags:
        return value
    flags = ", ".join(f"\\fB{_text(flag)}\\fR" for flag in argument.flags)
    return f"{flags} {value}" if argument.value else flags


def _examples(text: str) -> Iterator[str]:
    if not text:
        return
    yield ".nf"
    for line in text.splitlines():
        if line != "examples:":
            yield _text(line) or "\\&"
    yield ".fi"


def _tagged(pairs: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for tag, text in pairs:
        yield ".TP"
        yield f".B {_text(tag)}"
        yield _text(text)


def _text(text: str) -> str:
    """Text that roff takes for nothing else."""
    escaped = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    )
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped
