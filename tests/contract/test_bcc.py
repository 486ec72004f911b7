"""The text that BCC compiles, against what Python expects of it."""

import re
from importlib import resources
from pathlib import Path

import pytest

from picosnitch_exporter.sensor.bcc import drains, introductions
from picosnitch_exporter.sensor.bcc.hooks import HOOKS, LOSSES, MAPS
from picosnitch_exporter.sensor.bcc.worker import source_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "kernels.md"


@pytest.fixture(scope="module")
def text() -> str:
    return source_of(Path(str(resources.files("picosnitch_exporter.sensor"))))


def test_text_is_whole_when_it_is_built(text: str) -> None:
    assert '#include "' not in text
    for path in (ROOT / "ebpf").glob("bcc_*.h"):
        body = path.read_text("utf-8").splitlines()
        assert [line for line in body if line not in text] == []


def test_programs_are_those_of_the_hooks(text: str) -> None:
    assert set(re.findall(r"^int (\w+)\(struct \w+ \*\w+\)$", text, re.MULTILINE)) == {
        hook.program for hook in HOOKS
    }


@pytest.mark.parametrize("name", MAPS)
def test_maps_exist(text: str, name: str) -> None:
    assert re.search(rf"^BPF_\w+\([^;]*\b{name}\b", text, re.MULTILINE)


def test_numbers_agree(text: str) -> None:
    def constant(name: str) -> int:
        found = re.search(rf"^#define {name} +(\d+)$", text, re.MULTILINE)
        assert found
        return int(found[1])

    assert constant("RUN_MAX") == drains.RUN_MAX
    assert constant("PROCESS_SLOTS") == introductions.SLOTS
    assert f"ASSERT_SIZE(drain_block, {drains.BLOCK_BYTES})" in text
    comm, cmdline = constant("COMM_BYTES"), constant("CMDLINE_BYTES")
    assert "ASSERT_SIZE(process_node, 112 + COMM_BYTES + CMDLINE_BYTES)" in text
    assert introductions.SLOTS * (112 + comm + cmdline) == introductions.SLOTS_BYTES


def test_kernel_page_has_its_hooks_and_losses() -> None:
    _before, _heading, rest = PAGE.read_text("utf-8").partition("\n### Plan `bcc`\n")
    section, _heading, _after = rest.partition("\n## ")

    assert [line for line in section.splitlines() if line.startswith("| `")] == [
        f"| `{hook.program}` | {hook.target.value}"
        f"{f' `{hook.function}`' if hook.function else ''} | {hook.purpose} |"
        for hook in HOOKS
    ]
    assert [loss for loss in LOSSES if loss not in section.replace("\n", " ")] == []
