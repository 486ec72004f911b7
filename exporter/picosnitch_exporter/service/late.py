"""What the exporter process imports once there is work for it, if it can by then.

It gives root up, and with that an installation in a folder which only root may enter, as a checkout
in root's home is. Then all of this is imported before, and takes its memory from the start.
"""

import importlib
import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from picosnitch_exporter import privileges
from picosnitch_exporter.logging_format import Event

_log = logging.getLogger(__name__)

MODULES = (
    "picosnitch_exporter.log.dns_names",  # dnspython: the first answer of a name server
    "picosnitch_exporter.outputs.landing",  # the first visit
    "picosnitch_exporter.outputs.self_metrics",  # prometheus_client: the first scrape
)
_PACKAGES = ("dns", "picosnitch_exporter", "prometheus_client")


def import_out_of_reach(account: privileges.Account) -> None:
    """Imports now what `account` could not read later; to be called as root."""
    closed = [folder for folder in _folders() if not privileges.may_list(account, folder)]
    if not closed:
        return
    _log.debug(Event("imported_early", {"closed": str(closed[0])}))
    for name in MODULES:
        importlib.import_module(name)


def _folders() -> Iterator[Path]:
    """Python's own library, and the packages that the modules need."""
    yield Path(os.__file__).parent
    for name in _PACKAGES:
        spec = find_spec(name)
        yield from map(Path, spec.submodule_search_locations or () if spec else ())
