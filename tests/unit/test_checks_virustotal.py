import hashlib
import json
import os
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.checks.client import Answer, Body, Client, RequestError
from picosnitch_exporter.checks.multipart import file_body
from picosnitch_exporter.checks.virustotal import Counts, RefusedError, VirusTotal
from picosnitch_exporter.model import Sha256, Verdict
from picosnitch_exporter.settings import VirusTotalSettings

SHA = Sha256("ab" * 32)
BASE = "https://www.virustotal.com/api/v3"


class Said:
    """A client to which always the same is answered."""

    def __init__(self, status: int, body: bytes, **headers: str) -> None:
        self.answer = Answer(status=status, headers=headers, body=body)
        self.headers: dict[str, str] = {}

    def request(
        self,
        _method: str,
        _url: str,
        *,
        headers: dict[str, str],
        body: Body | None,
        total_seconds: float,
    ) -> Answer:
        del body, total_seconds
        self.headers = headers
        return self.answer


def asked(status: int, body: bytes, **headers: str) -> VirusTotal:
    return VirusTotal(
        cast("Client", Said(status, body, **headers)), base_url=BASE, api_key="s3cret"
    )


def report(**stats: object) -> bytes:
    numbers = {"malicious": 0, "suspicious": 0, "harmless": 0, "undetected": 1} | stats
    attributes = {"last_analysis_stats": numbers}
    return json.dumps({"data": {"type": "file", "id": SHA, "attributes": attributes}}).encode()


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "type", "id", "attributes", "error", "code", "stats", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(status=st.integers(200, 599), body=st.binary(max_size=50) | plain.map(json.dumps))
def test_there_is_no_verdict_when_the_answer_is_arbitrary(status: int, body: bytes | str) -> None:
    data = body.encode() if isinstance(body, str) else body
    for ask in (
        lambda: asked(status, data).look_up(SHA),
        lambda: asked(status, data).upload_url(),
        lambda: asked(status, data).analysis("x"),
        lambda: asked(status, data).upload(Body(size_bytes=0, content_type="", pieces=())),
    ):
        with pytest.raises(RefusedError) as caught:
            ask()
        assert caught.value.result in {"bad_key", "quota", "server_error", "refused", "garbage"}


@pytest.mark.parametrize("value", [-1, 1.5, "1", None, True, 10**9, [], {}])
@pytest.mark.parametrize("name", ["malicious", "suspicious", "harmless", "undetected"])
def test_report_is_garbage_when_a_number_is_none(name: str, value: object) -> None:
    with pytest.raises(RefusedError, match=f"without the number of {name}") as caught:
        asked(200, report(**{name: value})).look_up(SHA)
    assert caught.value.result == "garbage"


def test_file_is_pending_when_it_has_no_analysis_yet() -> None:
    body = json.dumps({"data": {"type": "file", "id": SHA.upper(), "attributes": {}}}).encode()
    counts = asked(200, body).look_up(SHA)
    assert counts is not None
    assert counts.judge(checked_seconds=5.0).verdict is Verdict.PENDING


@pytest.mark.parametrize(
    ("expected", "counts"),
    [
        (Verdict.MALICIOUS, (1, 1, 9, 9)),
        (Verdict.SUSPICIOUS, (0, 1, 9, 9)),
        (Verdict.CLEAN, (0, 0, 1, 0)),
        (Verdict.CLEAN, (0, 0, 0, 1)),
        (Verdict.PENDING, (0, 0, 0, 0)),
    ],
)
def test_verdict_is_the_worst_one_when_engines_differ(
    expected: Verdict, counts: tuple[int, int, int, int]
) -> None:
    malicious, suspicious, harmless, undetected = counts
    given_counts = Counts(
        malicious=malicious, suspicious=suspicious, harmless=harmless, undetected=undetected
    )
    result = given_counts.judge(checked_seconds=5.0)
    assert (expected, 5.0) == (result.verdict, result.checked_seconds)
    shown = (result.malicious, result.suspicious, result.harmless, result.undetected)
    assert counts == shown


@pytest.mark.parametrize(
    ("is_trusted", "url"),
    [
        (True, "https://www.virustotal.com/_ah/upload/x"),
        (True, "https://bigfiles.virustotal.com/x?y=z"),
        (False, "http://www.virustotal.com/x"),
        (False, "https://www.virustotal.com.example/x"),
        (False, "https://notvirustotal.com/x"),
        (False, "https://[/x"),
        (False, "//x"),
        (False, ""),
    ],
)
def test_upload_url_is_used_when_it_is_of_the_same_site(*, is_trusted: bool, url: str) -> None:
    virustotal = asked(200, json.dumps({"data": url}).encode())
    if is_trusted:
        assert url == virustotal.upload_url()
        return
    with pytest.raises(RefusedError, match="another site"):
        virustotal.upload_url()


@pytest.mark.parametrize("number", ["", " ", "a\n", "\ud800", "\xe9", "x" * 257, 1, None, ["x"]])
def test_receipt_is_garbage_when_its_id_can_be_no_part_of_a_url(number: object) -> None:
    body = json.dumps({"data": {"type": "analysis", "id": number}}).encode()
    with pytest.raises(RefusedError, match="without an analysis") as caught:
        asked(200, body).upload(Body(size_bytes=0, content_type="", pieces=()))
    assert caught.value.result == "garbage"


def test_answer_is_garbage_when_it_causes_what_nobody_has_foreseen() -> None:
    said = Said(200, b"")
    said.answer = cast("Answer", None)
    virustotal = VirusTotal(cast("Client", said), base_url=BASE, api_key="s3cret")
    for ask in (lambda: virustotal.look_up(SHA), virustotal.upload_url):
        with pytest.raises(RefusedError, match="AttributeError") as caught:
            ask()
        assert caught.value.result == "garbage"


@pytest.mark.parametrize(
    ("expected", "text"),
    [(7.0, "7"), (86_400.0, "99999999"), (0.0, "-1"), (0.0, "Fri, 31 Dec 1999"), (0.0, "")],
)
def test_pause_is_as_asked_when_the_quota_is_used_up(expected: float, text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        asked(429, b"", **{"retry-after": text}).look_up(SHA)
    assert expected == caught.value.retry_after_seconds


def test_key_is_shown_nowhere_when_objects_are_printed() -> None:
    said = Said(200, report())
    virustotal = VirusTotal(cast("Client", said), base_url=BASE, api_key="s3cret")
    virustotal.look_up(SHA)
    assert said.headers == {"x-apikey": "s3cret"}
    assert "s3cret" not in repr(virustotal)
    assert "s3cret" not in repr(VirusTotalSettings(api_key="s3cret", proxy_url="http://s3cret@x"))


@given(content=st.binary(max_size=600_000))
def test_form_has_the_announced_size_when_it_is_sent(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "content"
    path.write_bytes(content)
    sha256 = Sha256(hashlib.sha256(content).hexdigest())
    descriptor = os.open(path, os.O_RDONLY)
    try:
        body = file_body(descriptor, sha256=sha256, size_bytes=len(content))
        sent = b"".join(body.pieces)
    finally:
        os.close(descriptor)
    assert body.size_bytes == len(sent)
    assert content in sent
    assert str(path).encode() not in sent


@pytest.mark.parametrize("size_bytes", [2, 3, 4])
def test_form_is_never_ended_when_the_file_has_changed(tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"new")
    descriptor = os.open(path, os.O_RDONLY)
    sent = []
    body = file_body(descriptor, sha256=SHA, size_bytes=size_bytes)
    with pytest.raises(RequestError) as caught:  # noqa: PT012
        for piece in body.pieces:
            sent.append(piece)  # noqa: PERF402
    os.close(descriptor)
    assert caught.value.result == "modified"
    boundary = body.content_type.rpartition("=")[2]
    assert f"--{boundary}--".encode() not in b"".join(sent)
