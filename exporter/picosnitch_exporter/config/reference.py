"""docs/configuration.md, from the table of settings.

::

    python -m picosnitch_exporter.config.reference > docs/configuration.md
"""

import sys

import yaml

from picosnitch_exporter.config.keys import BY_PICOSNITCH, IN_FILE, INERT, KEYS, Key
from picosnitch_exporter.config.kinds import Choice
from picosnitch_exporter.config.loading import DEFAULT_FILE
from picosnitch_exporter.config.showing import show
from picosnitch_exporter.settings import Settings

_INTRODUCTION = f"""\
# Configuration

<!-- python -m picosnitch_exporter.config.reference writes this from config/keys.py -->

The exporter runs without a configuration file. `--config.file=FILE` names one; without that flag
`{DEFAULT_FILE}` is read if it exists. Flags win over the file. A change takes effect at the next
start.

`picosnitch-exporter check-config FILE` says whether a file is right, and with `--show` what every
setting comes to, with secrets hidden.

The file is YAML, in the groups below:

```yaml
web:
  listen_addresses: ["127.0.0.1:10054"]
log:
  write_limit_seconds: 30
  ignore: [53, 10.0.0.0/8, com.example]
```

It may as well be the `config.json` of picosnitch, as it stands, comments with `#` included: its
keys are accepted at the top level, also beside the groups. One setting named both ways is an error,
as are unknown keys, keys that stand twice, values of the wrong type or out of range, YAML aliases
and tags. The exporter does not start with such a file; the message names the file, the line and the
key.

Relative paths in the file are taken from the folder that the file is in, those of flags from the
working directory.
"""

_IGNORE = """\
## What `log.ignore` matches

- a SHA-256 (64 hexadecimal digits): that content of an executable
- a domain in reversed notation, itself and its subdomains: `com.example` matches `example.com` and
  `a.example.com`, not `example.community`
- a subnet or an address: `10.0.0.0/8`, `fd00::/8`, `192.168.1.1`
- a port, local or remote: a number, without quotes

Rows that match any entry are left out of every log. The executable is still recorded, hashed and
counted in the metrics. The real values are matched, also where `log.addresses` or `log.ports` hides
them.

## A database server

`log.server` (picosnitch: `DB sql server`) is `{}` for none. Otherwise `client` is needed, one of
mariadb, psycopg, psycopg2 and pymysql: the first and the last mean MariaDB or MySQL, the others
PostgreSQL, whichever driver is installed. `table_name` (connections) is the table; `password_file`
names a file with the password. All other keys are passed to the driver as connection parameters.

```yaml
log:
  server: {client: psycopg, host: db.example, dbname: picosnitch, user: picosnitch,
           password_file: /etc/picosnitch-exporter/db-password}
```

## Secrets

Secrets are `virustotal.api_key`, `virustotal.proxy_url`, `notifications.webhook_url` and the
passwords in `log.server`.
They are never printed. A configuration file that holds one is refused while its group or others can
read it (`chmod 600 FILE`). Each can stand in a file of its own instead (`..._file`), which its
group may read, but not others; setting both is an error.

Under systemd, the credential `vt-api-key` is the key of VirusTotal where the file sets none:

```ini
[Service]
LoadCredential=vt-api-key:/etc/picosnitch-exporter/vt-api-key
```

## Environment

The variables of OpenTelemetry (`OTEL_EXPORTER_OTLP_*`, `OTEL_RESOURCE_ATTRIBUTES`,
`OTEL_SERVICE_NAME`, `OTEL_METRIC_EXPORT_INTERVAL`) are left to its SDK. `CREDENTIALS_DIRECTORY` is
set by systemd, see above. Nothing else is read from the environment.
"""


def markdown() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    groups = dict.fromkeys(key.path[0] for key in IN_FILE)
    parts += [
        f"## {group}\n\n{_table([key for key in IN_FILE if key.path[0] == group])}"
        for group in groups
    ]
    parts.append(_IGNORE)
    parts.append(f"## Flags of `run`\n\n{_flags()}")
    parts.append(f"## The keys of picosnitch\n\n{_picosnitch()}")
    parts.append(f"## All defaults\n\n```yaml\n{show(Settings())}```\n")
    return "\n".join(parts)


def _table(keys: list[Key]) -> str:
    lines = ["| setting | default | accepts | |", "|---|---|---|---|"]
    lines += [f"| `{key.name}` | `{_default(key)}` | {_accepts(key)} | {key.doc} |" for key in keys]
    return "\n".join(lines) + "\n"


def _flags() -> str:
    lines = [
        "| flag | sets | |",
        "|---|---|---|",
        "| `--config.file` | | the configuration file |",
    ]
    for key in KEYS:
        if key.flag is not None:
            sets = f"`{key.name}`" if key.in_file else _accepts(key)
            lines.append(f"| `{key.flag}` | {sets} | {key.doc} |")
    return "\n".join(lines) + "\n"


def _picosnitch() -> str:
    lines = ["| picosnitch | here |", "|---|---|"]
    lines += [f"| `{name}` | `{key.name}` |" for name, key in sorted(BY_PICOSNITCH.items())]
    lines += [f"| `{name}` | accepted with a notice: it does nothing here |" for name in INERT]
    return "\n".join(lines) + "\n"


def _accepts(key: Key) -> str:
    if isinstance(key.kind, Choice):
        return ", ".join(f"`{word}`" for word in key.kind.words)
    return key.kind.description


def _default(key: Key) -> str:
    text: str = yaml.safe_dump(key.kind.plain(key.default), default_flow_style=True)
    return text.removesuffix("\n").removesuffix("\n...")


if __name__ == "__main__":  # pragma: no cover - its result is checked
    sys.stdout.write(markdown())
