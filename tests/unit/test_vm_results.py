"""What counts as a guest's success: its report, and nothing less."""

from pathlib import Path

import pytest

from tests.vm.results import Result, page, read_result

REPORT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase file="tests/kernel/test_a.py" name="test_one" />
<testcase file="tests/kernel/test_a.py" name="test_two[x]">{two}</testcase>
<testcase file="tests/kernel/test_b.py" name="test_three">{three}</testcase>
</testsuite></testsuites>"""
SKIPPED = '<skipped type="pytest.skip" message="this kernel: no |SCTP|" />'


def left_by_guest(
    folder: Path, *, status: str = "0\n", two: str = "", three: str = "", report: str = REPORT
) -> Result:
    (folder / "status").write_text(status)
    (folder / "release").write_text("6.1.0-1-amd64\n")
    (folder / "report.xml").write_text(report.format(two=two, three=three))
    return read_result(folder, kernel="6.1", plan="fexit")


def test_result_is_good_when_all_have_passed(tmp_path: Path) -> None:
    result = left_by_guest(tmp_path)

    assert result.is_good
    assert result.row == ("6.1.0-1-amd64", "fexit", "3", "0", "0")


@pytest.mark.parametrize("left", [(), ("report.xml",), ("status",)])
def test_result_is_missing_when_the_guest_has_left(tmp_path: Path, left: tuple[str, ...]) -> None:
    left_by_guest(tmp_path)
    for name in {"status", "report.xml"} - set(left):
        (tmp_path / name).unlink()

    result = read_result(tmp_path, kernel="6.1", plan="fexit")

    assert result.missing
    assert not result.is_good
    assert "no result" in page([result])


def test_result_is_missing_when_the_report_is_cut_off(tmp_path: Path) -> None:
    assert "no report" in left_by_guest(tmp_path, report=REPORT[:100]).missing


@pytest.mark.parametrize("status", ["1\n", "2\n", "137\n"])
def test_result_is_not_good_when_the_exit_code_is_not_zero(tmp_path: Path, status: str) -> None:
    assert not left_by_guest(tmp_path, status=status).is_good


@pytest.mark.parametrize("kind", ["failure", "error"])
def test_result_is_not_good_when_a_test_has_failed(tmp_path: Path, kind: str) -> None:
    result = left_by_guest(tmp_path, status="1\n", two=f'<{kind} message="no" />')

    assert result.failures == ("test_a.py::test_two[x]",)
    assert not result.is_good
    assert "| 6.1.0-1-amd64 | fexit | `test_a.py::test_two[x]` |" in page([result])


def test_result_is_not_good_when_a_file_was_skipped_as_a_whole(tmp_path: Path) -> None:
    result = left_by_guest(tmp_path, three=SKIPPED)

    assert result.idle == ("test_b.py",)
    assert not result.is_good


def test_page_says_what_is_lacking_when_tests_were_skipped(tmp_path: Path) -> None:
    result = left_by_guest(tmp_path, two=SKIPPED)

    assert result.is_good
    assert r"| 6.1.0-1-amd64 | fexit | 1 | no \|SCTP\| |" in page([result])
