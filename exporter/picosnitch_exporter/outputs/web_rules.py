"""What holds for a connection by the web configuration file, and what a file looked like then."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

Signature = tuple[int, int, int, int] | None
"""What changes with a file; None where it is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebRules:
    """What is in force for one connection."""

    tls: "ssl.SSLContext | None" = None
    client_allowed_sans: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Names to bcrypt hashes; empty: anybody may ask."""

    def check_certificate(self, connection: "ssl.SSLSocket") -> None:
        """Raise ssl.SSLCertVerificationError if the client's certificate is for somebody else."""
        from picosnitch_exporter.outputs.tls import check_sans

        check_sans(connection, self.client_allowed_sans)


def signature_of(path: Path) -> Signature:
    """What a file looks like now; None also for what can't be the name of one."""
    try:
        found = os.stat(path)  # noqa: PTH116  (on every connection: a third of Path.stat's time)
    except (OSError, ValueError):
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
