"""What `make lint` says of pip-audit's reports. They are as version 2.10 prints them."""

import json

import pytest

from deploy.audit import judge

CLEAN = {"name": "idna", "version": "3.20", "vulns": []}
SKIPPED = {
    "name": "psutil",
    "skip_reason": "Dependency not found on PyPI and could not be audited: psutil (7.2.2)",
}
VULNERABLE = {
    "name": "requests",
    "version": "2.31.0",
    "vulns": [
        {
            "id": "CVE-2024-35195",
            "fix_versions": ["2.32.0"],
            "aliases": ["GHSA-9wx4-h78v-vm56"],
            "description": "verify=False stays",
        }
    ],
}


def report(*packages: object) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize(
    ("printed", "said", "line"),
    [
        (report(CLEAN, CLEAN), "", "nothing is known against the 2 packages"),
        (report(SKIPPED), "", "nothing audited: the index knows nothing of the 1 packages"),
        (report(CLEAN, SKIPPED), "", "nothing is known; not audited: psutil"),
        ("", "Traceback\nServiceError: no route", "nothing audited: ServiceError: no route"),
        ("", "", "nothing audited: no answer"),
    ],
)
def test_linting_goes_on_when_no_vulnerability_is_known(printed: str, said: str, line: str) -> None:
    assert judge(printed, said) == (line, True)


def test_linting_fails_when_a_vulnerability_is_known() -> None:
    expected = "requests 2.31.0: CVE-2024-35195 (mended in: 2.32.0)"
    assert judge(report(SKIPPED, VULNERABLE), "") == (expected, False)
