"""VirusTotal's API v3: what is sent, and what of the answers is believed.

Sources: docs.virustotal.com/reference (files, upload_url, analyses, errors). An answer that is not
of the documented shape is `garbage` and never a verdict: a captive portal answers 200 and 404, too.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlsplit

from picosnitch_exporter.checks.client import Answer, Body, Client, RequestError
from picosnitch_exporter.errors import PicosnitchError
from picosnitch_exporter.model import MAX_ENGINES, Sha256, Verdict, VirusTotalResult

SMALL_FILE_BYTES: Final = 32_000_000
"""What `POST /files` takes ('32MB'); beyond it, an upload URL has to be asked for."""
MAX_FILE_BYTES: Final = 650_000_000
"""What an upload URL takes ('650MB')."""
REQUEST_SECONDS: Final = 60.0
UPLOAD_SECONDS: Final = 1800.0

_KEY_HEADER = "x-apikey"
_MAX_RETRY_AFTER_SECONDS = 86_400.0
_RESULTS: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "bad_key",
    HTTPStatus.FORBIDDEN: "bad_key",
    HTTPStatus.TOO_MANY_REQUESTS: "quota",
}
_NOT_AVAILABLE_YET = "NotAvailableYet"
_ANALYSIS = re.compile(r"[\x21-\x7e]{1,256}")
"""An id as it can be put into a URL; theirs have some 60 characters of base64."""

Fields = Mapping[str, object]


class RefusedError(PicosnitchError):
    """An answer that is no report; `result` says why in one word, as metrics count it.

    bad_key, quota, server_error, refused or garbage; or one of `RequestError`.
    """

    def __init__(self, result: str, message: str, *, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.result = result
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many engines say what."""

    malicious: int
    suspicious: int
    harmless: int
    undetected: int

    def judge(self, *, checked_seconds: float) -> VirusTotalResult:
        """The verdict: one engine is enough to be malicious, as in picosnitch.

        Where none has an opinion the file is not analysed yet.
        """
        if self.malicious:
            verdict = Verdict.MALICIOUS
        elif self.suspicious:
            verdict = Verdict.SUSPICIOUS
        elif self.harmless or self.undetected:
            verdict = Verdict.CLEAN
        else:
            verdict = Verdict.PENDING
        return VirusTotalResult(
            verdict=verdict,
            malicious=self.malicious,
            suspicious=self.suspicious,
            harmless=self.harmless,
            undetected=self.undetected,
            checked_seconds=checked_seconds,
        )


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Whatever goes wrong with an answer is said of the answer: none of them ends the thread."""
    try:
        yield
    except RefusedError:
        raise
    except Exception as error:
        message = f"an answer that can't be dealt with: {type(error).__name__}"
        raise RefusedError("garbage", message) from error


class VirusTotal:
    """One request for each call.

    All methods raise RefusedError where there is no report or receipt to believe.
    """

    def __init__(self, client: Client, *, base_url: str, api_key: str) -> None:
        self._client = client
        self._base_url = base_url
        self._base = urlsplit(base_url)
        self._api_key = api_key

    @_translated()
    def look_up(self, sha256: Sha256) -> Counts | None:
        """What engines say of a content; None where VirusTotal does not know it."""
        answer = self._request("GET", f"{self._base_url}/files/{sha256}")
        if answer.status == HTTPStatus.NOT_FOUND and _error_code(answer) == "NotFoundError":
            return None
        data = _data(answer)
        if data.get("type") != "file" or str(data.get("id")).lower() != sha256:
            raise RefusedError("garbage", "a report on something else")
        stats = _fields(data, "attributes").get("last_analysis_stats")
        if stats is None:
            return Counts(malicious=0, suspicious=0, harmless=0, undetected=0)
        return _counts(stats)

    @_translated()
    def upload_url(self) -> str:
        """Where a large file is to be sent; for one upload."""
        answer = self._request("GET", f"{self._base_url}/files/upload_url")
        url = _document(answer).get("data")
        if not isinstance(url, str):
            raise RefusedError("garbage", "an upload URL that is none")
        try:
            parts = urlsplit(url)
            trusted = parts.scheme == self._base.scheme and self._is_ours(parts.hostname or "")
        except ValueError:
            trusted = False
        if not trusted:
            # The key and the file go there.
            raise RefusedError("garbage", "an upload URL of another site")
        return url

    @_translated()
    def upload(self, body: Body, *, url: str | None = None) -> str:
        """Sends a file; the id of its analysis."""
        answer = self._request("POST", url or f"{self._base_url}/files", body=body)
        data = _data(answer)
        number = data.get("id")
        if (
            data.get("type") != "analysis"
            or not isinstance(number, str)
            or not _ANALYSIS.fullmatch(number)
        ):
            raise RefusedError("garbage", "a receipt without an analysis")
        return number

    @_translated()
    def analysis(self, number: str) -> Counts | None:
        """What engines say in an analysis; None while it is not completed."""
        answer = self._request("GET", f"{self._base_url}/analyses/{quote(number, safe='')}")
        if answer.status == HTTPStatus.BAD_REQUEST and _error_code(answer) == _NOT_AVAILABLE_YET:
            return None
        data = _data(answer)
        if data.get("type") != "analysis":
            raise RefusedError("garbage", "something else than an analysis")
        attributes = _fields(data, "attributes")
        if attributes.get("status") in ("queued", "in-progress"):
            return None
        if attributes.get("status") != "completed":
            raise RefusedError("garbage", "an analysis in an unknown state")
        return _counts(attributes.get("stats"))

    def _is_ours(self, host: str) -> bool:
        base = self._base.hostname or ""
        return host == base or host.endswith(f".{base.removeprefix('www.')}")

    def _request(self, method: str, url: str, *, body: Body | None = None) -> Answer:
        try:
            answer = self._client.request(
                method,
                url,
                headers={_KEY_HEADER: self._api_key},
                body=body,
                total_seconds=REQUEST_SECONDS if body is None else UPLOAD_SECONDS,
            )
        except RequestError as error:
            raise RefusedError(error.result, str(error)) from error
        if answer.status in _RESULTS:
            raise RefusedError(
                _RESULTS[answer.status],
                f"HTTP status {answer.status}{_reason(answer)}",
                retry_after_seconds=_retry_after(answer),
            )
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RefusedError(
                "server_error",
                f"HTTP status {answer.status}",
                retry_after_seconds=_retry_after(answer),
            )
        return answer


def _data(answer: Answer) -> Fields:
    return _fields(_document(answer), "data")


def _document(answer: Answer) -> Fields:
    """The answer's JSON object, of a request that has succeeded."""
    if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
        raise RefusedError("garbage", f"a redirect (HTTP status {answer.status})")
    if answer.status != HTTPStatus.OK:
        raise RefusedError("refused", f"HTTP status {answer.status}{_reason(answer)}")
    return _parse(answer.body)


def _parse(body: bytes) -> Fields:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError("garbage", "an answer that is no JSON") from error
    if not isinstance(document, dict):
        raise RefusedError("garbage", "an answer that is no JSON object")
    return document


def _fields(document: Fields, name: str) -> Fields:
    value = document.get(name)
    if not isinstance(value, dict):
        raise RefusedError("garbage", f"an answer without {name}")
    return value


def _counts(stats: object) -> Counts:
    if not isinstance(stats, dict):
        raise RefusedError("garbage", "a report without numbers")
    return Counts(
        malicious=_count(stats, "malicious"),
        suspicious=_count(stats, "suspicious"),
        harmless=_count(stats, "harmless"),
        undetected=_count(stats, "undetected"),
    )


def _count(stats: Fields, name: str) -> int:
    value = stats.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_ENGINES:
        raise RefusedError("garbage", f"a report without the number of {name}")
    return value


def _error_code(answer: Answer) -> str:
    """The documented error code; empty where there is none."""
    try:
        code = _fields(_parse(answer.body), "error").get("code")
    except RefusedError:
        return ""
    return code if isinstance(code, str) else ""


def _reason(answer: Answer) -> str:
    code = _error_code(answer)
    return f" ({code})" if code.isalnum() else ""


def _retry_after(answer: Answer) -> float:
    """Seconds, of the header (RFC 9110, section 10.2.3); dates are not believed."""
    text = answer.headers.get("retry-after", "")
    return min(float(text), _MAX_RETRY_AFTER_SECONDS) if text.isascii() and text.isdigit() else 0.0
