"""Rows, flows and commits for the tests of the log."""

from dataclasses import replace

from picosnitch_exporter.model import (
    HOST,
    NO_PROGRAM,
    AttributedFlow,
    Commit,
    CounterTotal,
    Direction,
    Executable,
    FileIdentity,
    KnownExecutable,
    KnownFile,
    LogRow,
    ProcessKey,
    Program,
    Scope,
    SeriesLabels,
    Sha256,
)

CURL = Program(
    exe="/usr/bin/curl",
    name="curl",
    cmdline="curl https://example.com/",
    sha256=Sha256("ab" * 32),
)
SHELL = Program(exe="/usr/bin/dash", name="sh", cmdline="sh -c 'curl'", sha256=Sha256("cd" * 32))
OWNER = ProcessKey(tgid=42, start_ns=1, exec_id=1)


def row(
    *,
    contime: float = 1_700_000_000,
    send: int = 10,
    recv: int = 20,
    program: Program = CURL,
    rport: int = 443,
) -> LogRow:
    return LogRow(
        contime=contime,
        send_bytes=send,
        receive_bytes=recv,
        events=3,
        program=program,
        parent=SHELL,
        grandparent=NO_PROGRAM,
        uid=1000,
        protocol="tcp",
        direction=Direction.OUTBOUND,
        local_port=50_000,
        remote_port=rport,
        local_address="10.0.0.2",
        remote_address="93.184.216.34",
        domain="com.example",
        netns=4_026_531_840,
        container="",
    )


def flow(
    *, cookie: int = 1, send: int = 10, recv: int = 20, connections: int = 0
) -> AttributedFlow:
    return AttributedFlow(
        time_seconds=1_700_000_000.0,
        cookie=cookie,
        owner=OWNER,
        program=CURL,
        parent=SHELL,
        grandparent=NO_PROGRAM,
        uid=1000,
        protocol="tcp",
        direction=Direction.OUTBOUND,
        local_address="10.0.0.2",
        remote_address="93.184.216.34",
        local_port=50_000,
        remote_port=443,
        netns=4_026_531_840,
        container="",
        transmit_bytes=send,
        receive_bytes=recv,
        transmit_calls=bool(send),
        receive_calls=bool(recv),
        connections=connections,
        connect_failures=0,
    )


def total(value: int, *, program: Program = CURL) -> CounterTotal:
    return CounterTotal(
        metric="transmit_bytes",
        labels=SeriesLabels(
            executable=Executable(sha256=program.sha256, exe=program.exe),
            workload=HOST,
            protocol="tcp",
            scope=Scope.PUBLIC,
        ),
        value=value,
        created_seconds=1_699_999_999.5,
    )


def known_executable(*, first_seen: float, last_seen: float) -> KnownExecutable:
    return KnownExecutable(
        executable=Executable(sha256=CURL.sha256, exe=CURL.exe),
        workload=HOST,
        name=CURL.name,
        parent=Executable(sha256=SHELL.sha256, exe=SHELL.exe),
        size_bytes=300_000,
        first_seen_seconds=first_seen,
        last_seen_seconds=last_seen,
    )


def known_file(*, inode: int = 77, sha256: str = "ab" * 32) -> KnownFile:
    return KnownFile(
        identity=FileIdentity(device=(259 << 20) | 3, inode=inode, generation=5),
        size_bytes=300_000,
        modified_ns=1_600_000_000_000_000_001,
        changed_ns=1_600_000_000_000_000_002,
        sha256=Sha256(sha256),
    )


NOTHING = Commit(
    rows=(),
    totals=(),
    executables=(),
    files=(),
    journal_segment=0,
    ring_instance=0,
    ring_position=0,
)


def commit(*rows: LogRow, segment: int = 1) -> Commit:
    return replace(NOTHING, rows=rows, journal_segment=segment)
