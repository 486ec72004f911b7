"""The exporter as it is installed: from a wheel, in a virtual environment of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.cases import pair, perform
from tests.kernel.exporter import Exporter
from tests.kernel.generator import Generator
from tests.kernel.network import Network

ROOT = Path(__file__).parents[2]
CASES = [
    case
    for host in ("127.0.0.1", "::1")
    for case in (
        pair(
            f"tcp-{host}",
            "tcp",
            host=host,
            server={"mode": "echo"},
            client={"mode": "pingpong", "bytes": 100_003},
        ),
        pair(
            f"udp-{host}",
            "udp",
            host=host,
            server={"mode": "echo"},
            client={"mode": "pingpong", "bytes": 10_007},
        ),
    )
]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the packages need besides is that of the environment in which the tests run."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    install = [*pip, f"--python={venv}/bin/python", "install", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, cwd=folder)
    (packages,) = venv.glob("lib/python*/site-packages")
    (others,) = (Path(path) for path in sys.path if path.endswith("site-packages"))
    # Only for what the wheel depends on: the editable installation there is a .pth file, which
    # does not count in a folder that is only on the path.
    (packages / "dependencies.pth").write_text(f"{others}\n")
    return [str(venv / "bin" / "picosnitch-exporter")]


def test_bytes_are_exact_when_it_runs_from_a_wheel(
    command: list[str],
    shared_generator: Generator,
    network: Network,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    where = [command[0].replace("picosnitch-exporter", "python"), "-c"]
    where.append("import picosnitch_exporter; print(picosnitch_exporter.__file__)")
    found = subprocess.run(where, check=True, capture_output=True, text=True, cwd="/")
    assert not Path(found.stdout.strip()).is_relative_to(ROOT)

    with Exporter.start(command=command) as exporter:
        for case in CASES:
            exporter.await_accounts(perform(case, shared_generator, network))
