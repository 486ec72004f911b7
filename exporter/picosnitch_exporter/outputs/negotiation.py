"""Which format and encoding a client gets, by its Accept and Accept-Encoding headers.

The formats are those of prometheus_client's `choose_encoder`, from which this differs in that it
honours `q`, never takes a version from the request into the answer, and is the same for every
release of that library. Sources: RFC 9110 sections 12.4 and 12.5; Prometheus, content negotiation.
"""

from dataclasses import dataclass

OPENMETRICS = "application/openmetrics-text"
_TEXT_TYPES = ("text/plain", "text/*", "*/*")
_OPENMETRICS_VERSIONS = ("", "1.0.0")
_TEXT_VERSIONS = ("", "0.0.4", "1.0.0")
# Every name here is valid in all of these as it stands; 'dots' would double each underscore.
_ESCAPINGS = ("allow-utf-8", "underscores", "values")


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """What goes out."""

    openmetrics: bool
    content_type: str


TEXT = Format(openmetrics=False, content_type="text/plain; version=0.0.4; charset=utf-8")


def choose_format(accept: str) -> Format:
    """Find the format that the client likes best; text 0.0.4 if it names none that exists here."""
    best = TEXT
    best_quality = 0.0
    for media_type, parameters in _elements(accept):
        quality = _quality(parameters)
        if quality > best_quality and (offered := _offer(media_type, parameters)):
            best, best_quality = offered, quality
    return best


def accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether the client takes gzip; a weight of 0 means that it does not."""
    weights = {coding: _quality(parameters) for coding, parameters in _elements(accept_encoding)}
    for coding in ("gzip", "x-gzip", "*"):
        if coding in weights:
            return weights[coding] > 0
    return False


def _offer(media_type: str, parameters: dict[str, str]) -> Format | None:
    version = parameters.get("version", "")
    escaping = parameters.get("escaping", "")
    if media_type == OPENMETRICS and version in _OPENMETRICS_VERSIONS:
        content_type = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
        return Format(openmetrics=True, content_type=content_type + _escaping(escaping))
    if media_type in _TEXT_TYPES and version in _TEXT_VERSIONS:
        if version != "1.0.0":
            return TEXT
        content_type = f"text/plain; version=1.0.0; charset=utf-8{_escaping(escaping)}"
        return Format(openmetrics=False, content_type=content_type)
    return None


def _escaping(asked: str) -> str:
    if not asked:
        return ""
    return f"; escaping={asked if asked in _ESCAPINGS else 'underscores'}"


def _elements(header: str) -> list[tuple[str, dict[str, str]]]:
    elements = []
    for element in header.split(","):
        value, *parameters = element.split(";")
        pairs = (parameter.partition("=") for parameter in parameters)
        elements.append(
            (
                value.strip().lower(),
                {name.strip().lower(): text.strip().strip('"') for name, _equals, text in pairs},
            )
        )
    return elements


def _quality(parameters: dict[str, str]) -> float:
    try:
        quality = float(parameters.get("q", "1"))
    except ValueError:
        return 0.0
    # Not a number compares false with everything.
    return quality if 0 <= quality <= 1 else 0.0
