"""`picosnitch-exporter completion`: scripts for bash, zsh and fish, from the command line."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from picosnitch_exporter.terminal.command_line import Argument, Command

PROGRAM: Final = "picosnitch-exporter"

EXAMPLES: Final = f"""\
examples:
  {PROGRAM} completion bash > /etc/bash_completion.d/{PROGRAM}
  {PROGRAM} completion zsh > /usr/local/share/zsh/site-functions/_{PROGRAM}
  {PROGRAM} completion fish > ~/.config/fish/completions/{PROGRAM}.fish
"""


def script(shell: str, commands: tuple[Command, ...]) -> str:
    """What this shell reads; the first of the commands is the program itself."""
    return SHELLS[shell](commands[0], commands[1:])


def _bash(program: Command, commands: tuple[Command, ...]) -> str:
    names = [command.name for command in commands]
    values, words, files = [], [_bash_words("", names, _flags(program))], []
    for command in commands:
        for argument in command.arguments:
            patterns = "|".join(f'"{command.name} {flag}"' for flag in argument.flags)
            if not argument.value or not patterns:
                continue
            if argument.is_file:
                reply = 'compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur"))'
            else:
                reply = f'COMPREPLY=($(compgen -W "{" ".join(argument.choices)}" -- "$cur"))'
            values.append(f"{patterns}) {reply}; return ;;")
        plain = [choice for one in _positionals(command) for choice in one.choices]
        if any(one.is_file for one in _positionals(command)):
            files.append(command.name)
        elif not plain:
            plain = _flags(command)
        words.append(_bash_words(command.name, plain, _flags(command)))
    return f"""\
# bash completion of {PROGRAM}; made by: {PROGRAM} completion bash
_picosnitch_exporter() {{
	local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}}
	local command= word words= flags=
	# --flag=value comes in three words.
	if [ "$cur" = = ]; then
		cur=
	elif [ "$prev" = = ]; then
		prev=${{COMP_WORDS[COMP_CWORD - 2]}}
	fi
	for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
		case $word in
		{"|".join(names)}) command=$word; break ;;
		esac
	done
	case "$command $prev" in
	{_indented(values)}
	esac
	case $command in
	{_indented(words)}
	esac
	case $cur in
	-*) words=$flags ;;
	esac
	COMPREPLY=($(compgen -W "$words" -- "$cur"))
	case $command in
	{"|".join(files)}) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")) ;;
	esac
}}
complete -F _picosnitch_exporter {PROGRAM}
"""


def _bash_words(command: str, words: Iterable[str], flags: Iterable[str]) -> str:
    return f'"{command}") words="{" ".join(words)}" flags="{" ".join(flags)}" ;;'


def _zsh(program: Command, commands: tuple[Command, ...]) -> str:
    described = [f"'{command.name}:{_quoted(command.summary)}'" for command in commands]
    cases = []
    for command in commands:
        specs = [_zsh_spec(argument) for argument in command.arguments]
        cases.append(f"{command.name}) _arguments {' '.join(specs)} ;;")
    options = " ".join(_zsh_spec(argument) for argument in program.arguments)
    return f"""\
#compdef {PROGRAM}
# zsh completion; made by: {PROGRAM} completion zsh
_{PROGRAM}() {{
	local curcontext=$curcontext state line
	_arguments -C {options} '1:command:->command' '*::argument:->argument'
	case $state in
	command)
		local -a commands=({" ".join(described)})
		_describe command commands ;;
	argument)
		case $line[1] in
		{_indented(cases, depth=2)}
		esac ;;
	esac
}}
if [[ $funcstack[1] == _{PROGRAM} ]]; then
	_{PROGRAM} "$@"
else
	compdef _{PROGRAM} {PROGRAM}
fi
"""


def _zsh_spec(argument: Argument) -> str:
    # A colon ends a part, a bracket the description.
    text = _quoted(argument.summary).replace("[", "(").replace("]", ")").replace(":", "\\:")
    value = ""
    if argument.value:
        name = argument.value.replace("|", " ").lower() if not argument.choices else "value"
        action = "_files" if argument.is_file else f"({' '.join(argument.choices)})"
        value = f":{name}:{action if argument.is_file or argument.choices else ' '}"
    if not argument.flags:
        return f"'{value}'" if value.startswith(":") and argument.is_file else f"'1{value}'"
    star = "*" if argument.is_repeatable else ""
    mark = "=" if argument.value else ""
    return " ".join(
        f"'{star}{flag}{mark if flag[1] == '-' else ''}[{text}]{value}'" for flag in argument.flags
    )


def _fish(program: Command, commands: tuple[Command, ...]) -> str:
    lines = [
        f"# fish completion; made by: {PROGRAM} completion fish",
        f"complete -c {PROGRAM} -f",
    ]
    lines += [_fish_flag(argument, "__fish_use_subcommand") for argument in program.arguments]
    for command in commands:
        lines.append(
            f"complete -c {PROGRAM} -n __fish_use_subcommand -a {command.name} "
            f"-d {_fish_text(command.summary)}"
        )
        condition = f"'__fish_seen_subcommand_from {command.name}'"
        lines += [_fish_flag(argument, condition) for argument in command.arguments]
    return "\n".join(lines) + "\n"


def _fish_flag(argument: Argument, condition: str) -> str:
    parts = [f"complete -c {PROGRAM} -n {condition}"]
    parts += [
        f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in argument.flags
    ]
    if argument.is_file:
        parts.append("-F" if not argument.flags else "-r -F")
    elif argument.choices:
        parts.append(f"{'-x ' if argument.flags else ''}-a '{' '.join(argument.choices)}'")
    elif argument.value:
        parts.append("-x")
    parts.append(f"-d {_fish_text(argument.summary)}")
    return " ".join(parts)


def _fish_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _flags(command: Command) -> list[str]:
    return [flag for argument in command.arguments for flag in argument.flags]


def _positionals(command: Command) -> list[Argument]:
    return [argument for argument in command.arguments if not argument.flags]


def _quoted(text: str) -> str:
    """For the inside of single quotes."""
    return text.replace("'", "'\\''")


def _indented(lines: Iterable[str], *, depth: int = 1) -> str:
    return ("\n" + "\t" * depth).join(lines)


SHELLS: Final[Mapping[str, Callable[[Command, tuple[Command, ...]], str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
"""By name, what makes the script."""
