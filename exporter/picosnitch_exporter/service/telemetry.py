"""OTLP as a part of the exporter process, imported only where there is somewhere to send to."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from picosnitch_exporter import __version__
from picosnitch_exporter.errors import RequirementError
from picosnitch_exporter.model import Snapshot
from picosnitch_exporter.settings import OtlpSettings, Settings, StorageSettings
from picosnitch_exporter.state.health import Health

if TYPE_CHECKING:
    from picosnitch_exporter.outputs.otlp.output import OtlpOutput

_VARIABLES = "OTEL_"


def output(
    settings: Settings,
    environment: Mapping[str, str],
    *,
    snapshot: Callable[[], Snapshot],
    health: Health,
    failed: Callable[[BaseException], None],
) -> "OtlpOutput | None":
    """What sends OTLP, None where nothing is configured.

    Raises
    ------
    ConfigurationError
        that names the variable or the key.
    RequirementError
        if its libraries are not installed.
    """
    if settings.otlp == OtlpSettings() and not any(map(_is_for_otlp, environment)):
        return None
    # With what reads configuration files: 2 MB that most have no use for.
    from picosnitch_exporter.config import otel

    plan = otel.plan(settings.otlp, environment)
    if plan is None:
        return None
    try:
        from picosnitch_exporter.outputs.otlp.output import OtlpOutput
    except ImportError as error:
        raise RequirementError(
            f"OTLP needs packages ({error}): pip install 'picosnitch-exporter[otlp]'"
        ) from error
    from picosnitch_exporter.log.batches import decode_rows, encode_rows

    storage = settings.storage.path
    return OtlpOutput(
        plan,
        environment=environment,
        snapshot=snapshot,
        health=health,
        failed=failed,
        encode_rows=encode_rows,
        decode_rows=decode_rows,
        version=__version__,
        instance="" if storage == StorageSettings().path else str(storage),
    )


def _is_for_otlp(variable: str) -> bool:
    return variable.startswith(_VARIABLES)
