"""Snapshots as the store would make them, for tests of what renders them."""

from array import array
from collections.abc import Sequence

from picosnitch_exporter.model import (
    HOST,
    CounterColumn,
    Direction,
    Executable,
    ExecutableFacts,
    Scope,
    SeriesLabels,
    Sha256,
    Snapshot,
    VirusTotalResult,
    Workload,
)

CREATED_SECONDS = 1_700_000_000.25


def executable(number: int, *, exe: str | None = None) -> Executable:
    return Executable(sha256=Sha256(f"{number:064x}"), exe=exe or f"/usr/bin/program-{number}")


def labels(
    of: Executable,
    *,
    workload: Workload = HOST,
    protocol: str = "tcp",
    scope: Scope = Scope.PUBLIC,
    direction: Direction = Direction.UNKNOWN,
) -> SeriesLabels:
    return SeriesLabels(
        executable=of, workload=workload, protocol=protocol, scope=scope, direction=direction
    )


def column(
    series: Sequence[tuple[SeriesLabels, int]] = (), *, first_number: int = 0
) -> CounterColumn:
    return CounterColumn(
        labels=tuple(one for one, _value in series),
        numbers=array("Q", range(first_number, first_number + len(series))),
        values=array("Q", [value for _one, value in series]),
        created_seconds=array("d", [CREATED_SECONDS] * len(series)),
    )


def facts(  # noqa: PLR0913
    number: int,
    *,
    of: Executable | None = None,
    workload: Workload = HOST,
    name: str = "program",
    virustotal: VirusTotalResult | None = None,
    is_deleted: bool = False,
) -> ExecutableFacts:
    return ExecutableFacts(
        number=number,
        executable=of or executable(number),
        workload=workload,
        name=name,
        parent=executable(0, exe="/usr/bin/bash"),
        size_bytes=1234,
        first_seen_seconds=CREATED_SECONDS,
        last_seen_seconds=CREATED_SECONDS + 10,
        virustotal=virustotal or VirusTotalResult(),
        is_deleted=is_deleted,
    )


def snapshot(
    *,
    transmit: CounterColumn | None = None,
    receive: CounterColumn | None = None,
    connections: CounterColumn | None = None,
    connect_failures: CounterColumn | None = None,
    executables: tuple[ExecutableFacts, ...] = (),
) -> Snapshot:
    return Snapshot(
        time_seconds=CREATED_SECONDS,
        transmit_bytes=transmit or column(),
        receive_bytes=receive or column(),
        connections=connections or column(),
        connect_failures=connect_failures or column(),
        executables=executables,
    )


def large_snapshot(series: int) -> Snapshot:
    """About as many series of traffic, over four metrics, of up to 2,000 executables."""
    of_each = series // 4
    scopes = tuple(Scope)

    def traffic(position: int, direction: Direction = Direction.UNKNOWN) -> CounterColumn:
        return column(
            [
                (
                    labels(
                        executable(one % 2000),
                        protocol=("tcp", "udp")[one // 2000 % 2],
                        scope=scopes[one // 4000 % len(scopes)],
                        direction=direction,
                    ),
                    one * 1_234_567,
                )
                for one in range(of_each)
            ],
            first_number=position * of_each,
        )

    return snapshot(
        transmit=traffic(0),
        receive=traffic(1),
        connections=traffic(2, Direction.OUTBOUND),
        connect_failures=traffic(3),
        executables=tuple(facts(number) for number in range(min(2000, of_each))),
    )
