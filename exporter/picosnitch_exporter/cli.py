"""The command line: arguments, and what is said where one of them is wrong.

Whatever a command needs is imported when it runs, so that `--help` and `version` answer at once.
"""

import argparse
import difflib
import io
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from picosnitch_exporter import __version__, outcome
from picosnitch_exporter.config import load_with_notices, show
from picosnitch_exporter.config.keys import BY_NAME, KEYS
from picosnitch_exporter.config.kinds import Choice
from picosnitch_exporter.errors import ConfigurationError, PicosnitchError, UsageError
from picosnitch_exporter.settings import Settings

if TYPE_CHECKING:
    from picosnitch_exporter.config.document import Plain
    from picosnitch_exporter.config.loading import Loaded

_EXAMPLES = f"""\
examples:
  {outcome.PROGRAM} doctor                      does it work here?
  sudo {outcome.PROGRAM} run                    count, and serve /metrics on port 10054
  sudo {outcome.PROGRAM} run --config.file=/etc/picosnitch-exporter/config.yaml
  sudo {outcome.PROGRAM} top                    what talks right now?
  sudo {outcome.PROGRAM} query --since 24h --by exe    what talked last night?
  {outcome.PROGRAM} check-config config.yaml    is the file right?
  sudo {outcome.PROGRAM} detach                 remove what was left counting in the kernel
"""

_RUN_EXAMPLES = f"""\
examples:
  sudo {outcome.PROGRAM} run
  sudo {outcome.PROGRAM} run --web.listen-address=127.0.0.1:10054 --web.listen-address='[::1]:10054'
  sudo {outcome.PROGRAM} run --config.file=config.yaml --log.level=debug --log.format=json

Flags win over the file. SIGTERM leaves the kernel side counting for the next start
(bpf.keep_on_exit); Ctrl-C removes it.
"""

_DOCTOR_EXAMPLES = f"""\
examples:
  sudo {outcome.PROGRAM} doctor
  sudo {outcome.PROGRAM} doctor --config.file=config.yaml --json | jq '.[] | select(.state != "ok")'
"""

_CHECK_EXAMPLES = f"""\
examples:
  {outcome.PROGRAM} check-config /etc/picosnitch-exporter/config.yaml
  {outcome.PROGRAM} check-config ~/.config/picosnitch/config.json --show > config.yaml
"""

_RECORD_EXAMPLES = f"""\
examples:
  sudo {outcome.PROGRAM} import-record ~/.config/picosnitch/record.json
"""

_Command = Callable[[argparse.Namespace], int]
Start = Callable[[Settings, Sequence[str]], int]
"""What `run` calls once it has read the settings."""


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print a usage of many lines and leave."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix(outcome.PROGRAM).strip()
        where = f"{command}: " if command else ""
        raise UsageError(f"{where}{message} (see '{self.prog} --help')")


def main(argv: Sequence[str] | None = None, *, start: Start | None = None) -> int:
    """Runs one command; the exit code.

    `start` is called by `run`, with the settings and what there is to say of them; it starts the
    daemon, in this process where none is given.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding does not have is shown as an escape.
        sys.stdout.reconfigure(errors="backslashreplace")
    return outcome.of(lambda: _main(arguments, start or _start))


def _main(argv: Sequence[str], start: Start) -> int:
    try:
        given = argparse.Namespace(start=start)
        arguments, unknown = _parser(argv).parse_known_args(argv, given)
        if unknown:
            raise _unknown_error(arguments, unknown[0])
        code = cast("_Command", arguments.command)(arguments)
    except SystemExit as leaving:  # --help and --version
        code = leaving.code if isinstance(leaving.code, int) else 0
    _say()
    return code


def _start(settings: Settings, notices: Sequence[str]) -> int:
    from picosnitch_exporter import daemon

    return daemon.start(settings, notices)


def _say(text: str = "") -> None:
    """Text to standard output, and what is still buffered; raises PicosnitchError."""
    try:
        print(text, end="\n" if text else "", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        outcome.discard_output()
        raise PicosnitchError(f"can't write to standard output: {error.strerror}") from error


def _unknown_error(arguments: argparse.Namespace, argument: str) -> UsageError:
    known = cast("tuple[str, ...]", arguments.flags)
    near = difflib.get_close_matches(argument.partition("=")[0], known, n=1)
    hint = (
        f"did you mean {near[0]}?" if near else f"see '{outcome.PROGRAM} {arguments.name} --help'"
    )
    return UsageError(f"{arguments.name}: unknown argument {argument}: {hint}")


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=outcome.PROGRAM,
        description="Network traffic of every executable, by SHA-256, as Prometheus metrics.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version_text())
    commands = parser.add_subparsers(metavar="command", required=True)

    run = _add(
        commands, "run", _run, "count traffic and serve it, in the foreground", _RUN_EXAMPLES
    )
    _add_setting_flags(run)

    doctor = _add(
        commands,
        "doctor",
        _doctor,
        "say what `run` needs and whether it is there",
        _DOCTOR_EXAMPLES,
    )
    _add_setting_flags(doctor)
    doctor.add_argument("--json", action="store_true", help="for programs")

    check = _add(
        commands, "check-config", _check_config, "check a configuration file", _CHECK_EXAMPLES
    )
    check.add_argument("file", type=Path, metavar="FILE", help="YAML, or picosnitch's config.json")
    check.add_argument("--show", action="store_true", help="print every setting, secrets hidden")

    _add_top(commands)
    _add_query(commands, is_asked="query" in argv)
    detach = _add(
        commands, "detach", _detach, "remove what a stopped exporter left counting in the kernel"
    )
    _add_config_file(detach)

    record = _add(
        commands,
        "import-record",
        _import_record,
        "take over what picosnitch knew, so that it is not told as new",
        _RECORD_EXAMPLES,
    )
    record.add_argument("file", type=Path, metavar="FILE", help="picosnitch's record.json")
    _add_setting_flags(record)

    _add_printers(commands)
    _add(commands, "version", _version, "print the version")
    for name, command in commands.choices.items():
        command.set_defaults(name=name, flags=tuple(command._option_string_actions))  # noqa: SLF001
    return parser


def _add(
    commands: "argparse._SubParsersAction[_Parser]",
    name: str,
    command: _Command,
    summary: str,
    examples: str | None = None,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(command=command)
    return parser


def _add_top(commands: "argparse._SubParsersAction[_Parser]") -> None:
    from picosnitch_exporter.terminal import top_arguments

    parser = _add(commands, "top", _top, "show what talks right now", top_arguments.EXAMPLES)
    top_arguments.add(parser)
    _add_storage(parser)


def _add_printers(commands: "argparse._SubParsersAction[_Parser]") -> None:
    from picosnitch_exporter.terminal import completion, manual

    shell = _add(
        commands, "completion", _completion, "print what a shell completes", completion.EXAMPLES
    )
    shell.add_argument("shell", choices=tuple(completion.SHELLS), help="for which shell")
    _add(commands, "man", _man, "print the man page", manual.EXAMPLES)


def _add_storage(parser: argparse.ArgumentParser) -> None:
    _add_config_file(parser)
    parser.add_argument(
        "--storage.path", dest="storage.path", metavar="VALUE", help=BY_NAME["storage.path"].doc
    )


def _add_query(commands: "argparse._SubParsersAction[_Parser]", *, is_asked: bool) -> None:
    summary = "search the connection log"
    if not is_asked:
        # Its arguments come with SQLite, which the other commands can do without.
        _add(commands, "query", _query, summary)
        return
    from picosnitch_exporter.terminal import query

    parser = _add(commands, "query", _query, summary, query.EXAMPLES)
    query.add_arguments(parser)
    _add_storage(parser)


def _add_config_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config.file",
        dest="config_file",
        type=Path,
        metavar="FILE",
        help="configuration file, YAML or picosnitch's config.json "
        "(default: /etc/picosnitch-exporter/config.yaml if there is one)",
    )


def _add_setting_flags(parser: argparse.ArgumentParser) -> None:
    _add_config_file(parser)
    for key in KEYS:
        if key.flag is None:
            continue
        default = key.kind.plain(key.default)
        many = isinstance(default, list)
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        parser.add_argument(
            key.flag,
            dest=key.name,
            action="append" if many else "store",
            metavar="|".join(key.kind.words) if isinstance(key.kind, Choice) else "VALUE",
            help=f"{key.doc}{'; may be repeated' if many else ''} (default: {shown or 'none'})",
        )


def _load(arguments: argparse.Namespace) -> "Loaded":
    given: dict[str, Plain] = {
        key.name: value
        for key in KEYS
        if key.flag is not None and (value := getattr(arguments, key.name, None)) is not None
    }
    return load_with_notices(arguments.config_file, environment=os.environ, overrides=given)


def _run(arguments: argparse.Namespace) -> int:
    loaded = _load(arguments)
    return cast("Start", arguments.start)(loaded.settings, loaded.notices)


def _detach(arguments: argparse.Namespace) -> int:
    from picosnitch_exporter import daemon

    return daemon.detach(_load(arguments).settings)


def _import_record(arguments: argparse.Namespace) -> int:
    settings = _load(arguments).settings
    from picosnitch_exporter import daemon
    from picosnitch_exporter.terminal import import_record

    file = import_record.read(arguments.file)
    if os.geteuid() == 0:
        # The file is looked at without privileges, and the database stays the exporter's.
        daemon.become_account(settings)
    return import_record.run(settings, file)


def _doctor(arguments: argparse.Namespace) -> int:
    from picosnitch_exporter.terminal import doctor

    try:
        loaded = _load(arguments)
    except ConfigurationError as error:
        if str(error).startswith("--"):  # not the file: the flags of this very command
            raise
        found = (doctor.configuration(error),)
        return doctor.run(Settings(), as_json=arguments.json, before=found)
    found = (doctor.configuration(loaded),)
    return doctor.run(loaded.settings, as_json=arguments.json, before=found)


def _top(arguments: argparse.Namespace) -> int:
    from picosnitch_exporter.terminal import top

    return top.run(_load(arguments).settings, arguments, os.environ)


def _query(arguments: argparse.Namespace) -> int:
    from picosnitch_exporter.terminal import query

    return query.run(_load(arguments).settings, arguments)


def _completion(arguments: argparse.Namespace) -> int:
    from picosnitch_exporter.terminal import command_line, completion

    _say(completion.script(arguments.shell, command_line.describe(_parser(["query"]))).rstrip())
    return 0


def _man(_: argparse.Namespace) -> int:
    from picosnitch_exporter.terminal import command_line, manual

    page = manual.page(command_line.describe(_parser(["query"])), version=__version__)
    _say(page.rstrip())
    return 0


def _check_config(arguments: argparse.Namespace) -> int:
    loaded = load_with_notices(arguments.file, environment=os.environ, overrides={})
    for notice in loaded.notices:
        outcome.complain(notice)
    _say(show(loaded.settings).rstrip() if arguments.show else f"{arguments.file}: valid")
    return 0


def _version(_: argparse.Namespace) -> int:
    _say(_version_text())
    return 0


def _version_text() -> str:
    """The version in the form that Prometheus's exporters print."""
    return (
        f"{outcome.PROGRAM}, version {__version__}\n"
        f"  python version:   {platform.python_version()}\n"
        f"  platform:         {sys.platform}/{os.uname().machine}"
    )
