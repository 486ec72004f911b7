"""`make install` and `make uninstall`, on copies of the folders that they write to."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from picosnitch_exporter import __version__

ROOT = Path(__file__).parents[2]
# Nothing of it reaches the machine: there are layers over its folders, a bpffs and a /run of its
# own. An account that is there gets another name: userdel refuses it while something runs as it.
INSIDE = """
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
for folder in /etc /usr/local /var/lib; do
	layer=$1$folder
	mkdir -p "$layer/upper" "$layer/work"
	mount -t overlay overlay \
		-o "lowerdir=$folder,upperdir=$layer/upper,workdir=$layer/work" "$folder"
done
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
cd "$2"
lists=$3

list() { find /etc /usr/local /var/lib -path '*/__pycache__' -prune -o -print >"$lists/$1"; }

rm -rf /etc/picosnitch-exporter /usr/local/lib/picosnitch-exporter
find /etc /usr/local -name '*picosnitch-exporter*' -delete
sed -i s/picosnitch-exporter/picosnitch-other/g /etc/passwd /etc/shadow /etc/group /etc/gshadow
list before
make -s install EXTRAS=mysql
list installed
PATH=/usr/local/bin:$PATH
picosnitch-exporter --version
bash -c '. /usr/share/bash-completion/bash_completion
	_completion_loader picosnitch-exporter; complete -p picosnitch-exporter'
XDG_DATA_DIRS=/usr/local/share:/usr/share fish -c 'complete -C "picosnitch-exporter que"'
zsh -f -c 'autoload -Uz compinit; compinit -D -u; print $_comps[picosnitch-exporter]'
man -w picosnitch-exporter
make -s install EXTRAS=mysql
list again
make -s uninstall
list uninstalled
make -s uninstall PURGE=1
list purged
"""
NO_INDEX = re.compile("No matching distribution found|Could not fetch URL|Max retries exceeded")

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What was there at each step, and all that was said."""

    folder: Path
    said: str

    def new(self, step: str) -> set[str]:
        """Paths that were not there before."""
        before, now = ((self.folder / name).read_text().splitlines() for name in ("before", step))
        # Copies that useradd and userdel leave of the files they change, and their locks.
        own = re.compile(r"/etc/(passwd|shadow|group|gshadow|subuid|subgid)-?$")
        return {path for path in set(now) ^ set(before) if not own.search(path)}


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    if os.geteuid() != 0:
        pytest.fail("it installs for the whole machine: run this as root")
    layers, lists = tmp_path_factory.mktemp("layers"), tmp_path_factory.mktemp("lists")
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", INSIDE, "sh"),
            *(str(layers), str(ROOT), str(lists)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode and NO_INDEX.search(done.stdout):
        pytest.skip("pip reaches no package index, from which it installs the dependencies")
    assert done.returncode == 0, done.stdout
    return Course(folder=lists, said=done.stdout)


def test_everything_is_where_the_documentation_says_when_installed(course: Course) -> None:
    installed = course.new("installed")
    page = (ROOT / "docs" / "install.md").read_text()
    stated = set(re.findall(r"^\| [^|]+ \| `(/(?:etc|usr)/[^`]+)`", page, re.MULTILINE))

    assert len(stated) >= 8
    assert stated - {"/etc/picosnitch-exporter/config.yaml"} <= installed
    assert f"installed picosnitch-exporter, version {__version__}\n" in course.said


def test_shells_and_man_find_what_is_theirs_when_installed(course: Course) -> None:
    for found in (
        "complete -F _picosnitch_exporter picosnitch-exporter",
        "query\tsearch the connection log",
        "\n_picosnitch-exporter\n",
        "/man/man1/picosnitch-exporter.1\n",
    ):
        assert found in course.said


def test_nothing_is_added_when_installed_again(course: Course) -> None:
    assert course.new("again") == course.new("installed")


def test_only_the_configuration_is_left_when_uninstalled(course: Course) -> None:
    left = course.new("uninstalled")
    assert {path for path in left if not is_folder_of_others(path)} == {"/etc/picosnitch-exporter"}


def test_nothing_is_left_when_purged(course: Course) -> None:
    assert {path for path in course.new("purged") if not is_folder_of_others(path)} == set()


def is_folder_of_others(path: str) -> bool:
    """One that other programs put files into as well, as bash-completion's."""
    return path.startswith("/usr/local/share/") and "picosnitch" not in path
