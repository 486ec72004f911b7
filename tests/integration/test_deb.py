"""`make deb`: built, and installed by dpkg on a layer over this machine's files."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from picosnitch_exporter import __version__
from tests.integration.test_install import NO_INDEX
from tests.kernel.exporter import free_port

ROOT = Path(__file__).parents[2]
# Nothing of it reaches the machine: what dpkg does goes to the layer, what runs there pins to a
# bpffs of its own. An account that is there gets another name, as in test_install.py.
INSIDE = """
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
root=$1/root
mkdir -p "$root" "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$root"
for folder in proc sys dev; do mount --rbind "/$folder" "$root/$folder"; done
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t bpf bpf "$root/sys/fs/bpf"
cp "$2" "$root/tmp/package.deb"
cp "$3" "$root/tmp/inside"
exec chroot "$root" sh /tmp/inside
"""
STEPS = """
set -eu
cd /
sed -i s/picosnitch-exporter/picosnitch-other/g /etc/passwd /etc/shadow /etc/group /etc/gshadow
dpkg -i /tmp/package.deb
dpkg -V picosnitch-exporter
echo "status: $(dpkg-query -W -f '${db:Status-Status}' picosnitch-exporter)"
getent passwd picosnitch-exporter
picosnitch-exporter --version
man -w picosnitch-exporter
picosnitch-exporter run --web.listen-address=127.0.0.1:PORT 2>/tmp/said &
exporter=$!
trap 'kill -KILL "$exporter" 2>/dev/null || :' EXIT
tries=0
until curl -sf http://127.0.0.1:PORT/-/ready; do
	tries=$((tries + 1))
	[ "$tries" -lt 300 ] || { cat /tmp/said; exit 1; }
	sleep 0.1
done
kill -TERM "$exporter"
wait "$exporter"
echo "kept: $(ls -d /sys/fs/bpf/picosnitch*)"
dpkg -i /tmp/package.deb
dpkg -r picosnitch-exporter
echo "after removal: $(ls -d /var/lib/picosnitch /usr/lib/picosnitch-exporter 2>/dev/null)"
echo "pinned: $(ls -d /sys/fs/bpf/picosnitch* 2>/dev/null)"
dpkg -P picosnitch-exporter
echo "after purge: $(find /etc /usr /var/lib -xdev -name '*picosnitch-exporter*' \
	-not -path '/var/lib/dpkg/*') $(ls -d /var/lib/picosnitch 2>/dev/null)"
"""

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="not Debian or Ubuntu"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The package, and all that was said when it was installed, run and removed."""

    package: Path
    said: str


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    if os.geteuid() != 0:
        pytest.fail("dpkg installs for the whole machine: run this as root")
    target, layers = tmp_path_factory.mktemp("deb"), tmp_path_factory.mktemp("layers")
    done = subprocess.run(
        [ROOT / "deploy" / "deb", target],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode and NO_INDEX.search(done.stdout):
        pytest.skip("pip reaches no package index, from which it installs the dependencies")
    assert done.returncode == 0, done.stdout
    (package,) = target.glob("*.deb")
    steps = target / "steps"
    steps.write_text(STEPS.replace("PORT", str(free_port())))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", INSIDE, "sh", layers, package, steps],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return Built(package=package, said=done.stdout)


def fields(package: Path) -> dict[str, str]:
    done = subprocess.run(["dpkg-deb", "-f", package], check=True, capture_output=True, text=True)
    return dict(re.findall(r"^([A-Z][\w-]*): (.*)$", done.stdout, re.MULTILINE))


def test_package_names_its_version_and_what_it_needs(built: Built) -> None:
    found = fields(built.package)
    assert (found["Package"], found["Version"]) == ("picosnitch-exporter", __version__)
    for needed in ("libbpf1", "libseccomp2", "python3 (>= 3."):
        assert needed in found["Depends"]


def test_package_names_no_place_where_it_was_made(built: Built, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", built.package, tmp_path], check=True)
    scripts = [tmp_path / "usr/lib/picosnitch-exporter/bin/picosnitch-exporter"]
    scripts += tmp_path.glob("usr/lib/picosnitch-exporter/**/*.cfg")
    scripts += tmp_path.glob("usr/lib/picosnitch-exporter/**/direct_url.json")
    scripts += tmp_path.glob("usr/lib/systemd/system/*")
    text = "".join(path.read_text() for path in scripts)
    assert "/usr/lib/picosnitch-exporter/bin/picosnitch-exporter run" in text
    assert "#!/usr/lib/picosnitch-exporter/bin/python" in text
    assert "/tmp/" not in text  # noqa: S108 - where it was made
    assert "/usr/local" not in text


def test_package_runs_when_dpkg_has_installed_it(built: Built) -> None:
    assert "status: installed" in built.said
    assert f"picosnitch-exporter, version {__version__}" in built.said
    assert "/usr/share/man/man1/picosnitch-exporter.1.gz" in built.said
    assert "\nready\n" in built.said
    assert "kept: /sys/fs/bpf/picosnitch\n" in built.said


def test_nothing_counts_in_the_kernel_when_the_package_was_removed(built: Built) -> None:
    assert "after removal: /var/lib/picosnitch\n" in built.said
    assert "pinned: \n" in built.said


def test_nothing_is_left_when_the_package_was_purged(built: Built) -> None:
    assert "after purge:  \n" in built.said
