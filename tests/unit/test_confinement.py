import logging
import os
from pathlib import Path

import pytest

from picosnitch_exporter import catalog, confinement
from picosnitch_exporter.confinement import landlock, seccomp
from picosnitch_exporter.service import confines
from picosnitch_exporter.settings import Settings, StorageSettings
from picosnitch_exporter.state.health import Health

NO_SUCH_CALL = 100_000


@pytest.fixture
def without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "_LIBRARY", "libnowhere.so.2")
    monkeypatch.setattr(landlock, "_CREATE_RULESET", NO_SUCH_CALL)


@pytest.mark.usefixtures("without_any")
def test_package_is_named_when_libseccomp_is_missing() -> None:
    with pytest.raises(confinement.UnconfinedError, match="install libseccomp2"):
        confinement.refuse_calls(confinement.EXPORTER)


@pytest.mark.usefixtures("without_any")
def test_kernel_is_named_when_it_has_no_landlock(tmp_path: Path) -> None:
    with pytest.raises(confinement.UnconfinedError, match="CONFIG_SECURITY_LANDLOCK"):
        confinement.restrict_files(readable=(), writable=(tmp_path,))


@pytest.mark.usefixtures("without_any")
def test_it_runs_and_says_so_when_the_system_can_confine_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", os.environ.get("TMPDIR", "/tmp"))  # noqa: S108 - put back after
    caplog.set_level(logging.WARNING)
    health = Health()
    in_force = confines.apply(Settings(storage=StorageSettings(path=tmp_path)), {})
    confines.report(health, in_force)
    assert dict(in_force) == {"landlock": False, "seccomp": False}
    assert len([one for one in caplog.records if "unconfined" in one.getMessage()]) == 2
    shown = {
        one.labels: one.value
        for family in health.collect()
        if family.metric is catalog.CONFINED
        for one in family.readings
    }
    assert shown[("exporter", "landlock")] == shown[("exporter", "seccomp")] == 0
