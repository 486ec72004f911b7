"""`python -m dashboards [--check]`: write dashboards/json, or say what is not up to date."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import executable, exporter, fleet, host, log
from dashboards.links import Uid
from dashboards.queries import Source

FOLDER = Path(__file__).with_name("json")


def texts() -> Iterator[tuple[str, str]]:
    """Name and content of each file."""
    built = (
        fleet.build(),
        executable.build(),
        host.build(),
        log.build(Uid.LOG_POSTGRESQL, Source.POSTGRESQL),
        log.build(Uid.LOG_MYSQL, Source.MYSQL),
        exporter.build(),
    )
    for one in built:
        model = one.build()
        text = json.dumps(model, cls=JSONEncoder, indent=2, sort_keys=True)
        yield f"{model.uid}.json", text + "\n"


def main(arguments: list[str]) -> int:
    """Exit code 1 if --check finds a difference."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m dashboards [--check]", file=sys.stderr)
        return 2
    wanted = dict(texts())
    found = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    different = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if arguments:
        for name in different:
            print(f"{FOLDER / name} is not up to date: run python -m dashboards", file=sys.stderr)
        return 1 if different else 0
    FOLDER.mkdir(exist_ok=True)
    for name in different:
        if name in wanted:
            (FOLDER / name).write_text(wanted[name])
        else:
            (FOLDER / name).unlink()
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
