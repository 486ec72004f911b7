import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.errors import PeerGoneError, WireError
from picosnitch_exporter.model import FileIdentity, ProcessKey
from picosnitch_exporter.stream import (
    FROM_EXPORTER,
    FROM_SENSOR,
    Acknowledge,
    CgroupPath,
    Channel,
    CommandLine,
    ExecutableSeen,
    Frame,
    Hello,
    Introductions,
    KernelStatus,
    MapUse,
    ProgramUse,
    Ready,
    Records,
    Resume,
    Stopping,
    decode,
    encode,
)
from picosnitch_exporter.wire import Counter

WORDS = st.integers(0, 2**64 - 1)
HALVES = st.integers(0, 2**32 - 1)
STAMPS = st.integers(-(2**63), 2**63 - 1)

IDENTITIES = st.builds(FileIdentity, device=HALVES, inode=WORDS, generation=HALVES)
KEYS = st.builds(ProcessKey, tgid=HALVES, start_ns=WORDS, exec_id=WORDS)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(
        Hello,
        wire_version=HALVES,
        instance=WORDS,
        plan=st.text(),
        refused_plans=st.lists(st.tuples(st.text(), st.text())).map(tuple),
        plan_losses=st.lists(st.text()).map(tuple),
        hooks=st.lists(st.text()).map(tuple),
        kernel_release=st.text(),
        adopted=st.booleans(),
        idle=st.booleans(),
    ),
    st.binary(max_size=999).flatmap(
        lambda data: st.builds(
            lambda instance, start: Records(
                instance=instance, start=start, end=start + len(data), data=data
            ),
            WORDS,
            st.integers(0, 2**63),
        )
    ),
    st.builds(
        ExecutableSeen,
        identity=IDENTITIES,
        tgid=HALVES,
        seen_ns=WORDS,
        size_bytes=WORDS,
        modified_ns=STAMPS,
        changed_ns=STAMPS,
        links=st.integers(0, 0xFFFF),
        path=st.binary(max_size=4096),
        reason=st.sampled_from(["", "gone", "denied", "no_descriptor"]),
    ),
    st.builds(CommandLine, key=KEYS, cmdline=st.binary(max_size=999)),
    st.builds(Introductions, data=st.binary(max_size=999)),
    st.builds(CgroupPath, hierarchy=HALVES, cgroup_id=WORDS, path=st.binary(max_size=4096)),
    st.builds(
        KernelStatus,
        counters=st.lists(WORDS, min_size=len(Counter), max_size=len(Counter)).map(tuple),
        maps=st.lists(st.builds(MapUse, name=st.text(), entries=WORDS, capacity=WORDS)).map(tuple),
        programs=st.lists(st.builds(ProgramUse, name=st.text(), runs=WORDS, run_time_ns=WORDS)).map(
            tuple
        ),
        drain_seconds=st.lists(st.floats(0, 99)).map(tuple),
        sensor_lost=st.lists(st.tuples(st.text(), st.text(), WORDS)).map(tuple),
        idle_seconds=st.floats(0, 1e9),
        open_descriptors=WORDS,
        resident_bytes=WORDS,
        cpu_seconds=st.floats(0, 1e9),
    ),
    st.just(Ready()),
    st.just(Stopping()),
    st.builds(Resume, instance=WORDS, position=WORDS),
    st.builds(Acknowledge, instance=WORDS, position=WORDS),
)


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    sensor_end, exporter_end = Channel.pair()
    sensor = Channel(sensor_end, receives=FROM_EXPORTER)
    exporter = Channel(exporter_end, receives=FROM_SENSOR)
    yield sensor, exporter
    sensor.close()
    exporter.close()


def seen(reason: str = "") -> ExecutableSeen:
    return ExecutableSeen(
        identity=FileIdentity(device=1, inode=2, generation=3),
        tgid=4,
        seen_ns=5,
        size_bytes=6,
        modified_ns=7,
        changed_ns=8,
        links=1,
        path=b"/bin/\xff",
        reason=reason,
    )


@given(FRAMES)
def test_frame_comes_back_when_decoded(frame: Frame) -> None:
    assert frame == decode(encode(frame))


@given(st.binary(max_size=4096))
def test_only_a_wire_error_when_bytes_are_arbitrary(message: bytes) -> None:
    try:
        decode(message)
    except WireError:
        return


@given(FRAMES, st.data())
def test_only_a_wire_error_when_a_frame_is_damaged(frame: Frame, data: st.DataObject) -> None:
    message = bytearray(encode(frame))
    position = data.draw(st.integers(0, len(message) - 1))
    message[position] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(message)))
    for damaged in (bytes(message), bytes(message[:cut])):
        try:
            decode(damaged)
        except WireError:
            continue


def test_refused_when_version_is_another() -> None:
    message = bytearray(encode(Ready()))
    struct.pack_into("=H", message, 0, 99)
    with pytest.raises(WireError, match="version 99"):
        decode(bytes(message))


def test_refused_when_counters_are_of_another_kernel_side() -> None:
    status = KernelStatus(
        counters=(1, 2),
        maps=(),
        map_memory_bytes=(("flows", 4096),),
        programs=(),
        drain_seconds=(),
        sensor_lost=(),
        idle_seconds=0.0,
        open_descriptors=0,
        resident_bytes=0,
        cpu_seconds=0.0,
    )
    with pytest.raises(WireError, match="2 counters"):
        decode(encode(status))


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "9" * 5000])
@pytest.mark.parametrize("replaced", ["0.25", "12345"])
def test_refused_when_a_number_is_none(number: str, replaced: str) -> None:
    """Found by `make fuzz`: a float without end as a counter."""
    frame = KernelStatus(
        counters=(12345,) * len(Counter),
        maps=(),
        map_memory_bytes=(("flows", 4096),),
        programs=(),
        drain_seconds=(0.25,),
        sensor_lost=(),
        idle_seconds=0.0,
        open_descriptors=1,
        resident_bytes=1,
        cpu_seconds=0.0,
    )
    message = encode(frame)
    body = message[8:].replace(replaced.encode(), number.encode())
    with pytest.raises(WireError):
        decode(message[:4] + struct.pack("=I", len(body)) + body)


def test_descriptor_arrives_open_when_sent_with_its_frame(pair: tuple[Channel, Channel]) -> None:
    sensor, exporter = pair
    reading, writing = os.pipe()
    sensor.send(seen(), descriptor=reading)
    os.close(reading)
    frame, received = exporter.receive()
    assert seen() == frame
    assert received is not None
    os.write(writing, b"content")
    assert os.read(received, 99) == b"content"
    assert not os.get_inheritable(received)
    os.close(received)
    os.close(writing)


def test_frame_says_why_when_there_is_no_room_for_its_descriptor(
    pair: tuple[Channel, Channel],
) -> None:
    sensor, exporter = pair
    reading, writing = os.pipe()
    sensor.send(seen(), descriptor=reading)
    os.close(reading)
    os.close(writing)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        frame, received = exporter.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert replace(seen(), reason="no_descriptor") == frame
    assert received is None


def test_refused_and_closed_when_a_frame_may_have_no_descriptor(
    pair: tuple[Channel, Channel],
) -> None:
    sensor, exporter = pair
    reading, writing = os.pipe()
    sensor.send(Ready(), descriptor=reading)
    os.close(reading)
    with pytest.raises(WireError, match="with 1 descriptors"):
        exporter.receive()
    with pytest.raises(BrokenPipeError):
        os.write(writing, b"nobody holds the other end")
    os.close(writing)


def test_refused_when_the_descriptor_is_missing(pair: tuple[Channel, Channel]) -> None:
    sensor, exporter = pair
    sensor.send(seen())
    with pytest.raises(WireError, match="with 0 descriptors"):
        exporter.receive()


@pytest.mark.parametrize("count", [2, 5])
def test_refused_and_closed_when_more_descriptors_come_than_may(
    pair: tuple[Channel, Channel], count: int
) -> None:
    sensor, exporter = pair
    reading, writing = os.pipe()
    sender = socket.socket(fileno=os.dup(sensor.fileno()))
    socket.send_fds(sender, [encode(seen())], [reading] * count)
    sender.close()
    os.close(reading)
    with pytest.raises(WireError):
        exporter.receive()
    with pytest.raises(BrokenPipeError):
        os.write(writing, b"nobody holds the other end")
    os.close(writing)


def test_refused_when_the_frame_is_of_the_wrong_side(pair: tuple[Channel, Channel]) -> None:
    sensor, exporter = pair
    exporter.send(Ready())
    with pytest.raises(WireError, match="wrong side"):
        sensor.receive()


def test_peer_gone_when_the_other_end_is_closed(pair: tuple[Channel, Channel]) -> None:
    sensor, exporter = pair
    exporter.close()
    with pytest.raises(PeerGoneError):
        sensor.receive()
    with pytest.raises(PeerGoneError):
        sensor.send(Ready())


SEND_TOO_MANY = """
import array, os, resource, socket
from picosnitch_exporter.model import FileIdentity
from picosnitch_exporter.stream import FROM_EXPORTER, FROM_SENSOR, Channel, ExecutableSeen
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
kept = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
os.setresuid(65534, 65534, 65534)
many = array.array("i", [0] * 10).tobytes()
for end, _other in kept:
    end.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)])
frame = ExecutableSeen(
    identity=FileIdentity(device=1, inode=2, generation=3), tgid=4, seen_ns=0, size_bytes=0,
    modified_ns=0, changed_ns=0, links=1, path=b"/x", reason="",
)
Channel(ours, receives=FROM_EXPORTER).send(frame, descriptor=0)
got, descriptor = Channel(theirs, receives=FROM_SENSOR).receive()
assert (got.path, got.reason, descriptor) == (b"/x", "no_descriptor", None), (got, descriptor)
"""


def test_frame_comes_without_descriptor_when_its_user_has_too_many_on_their_way() -> None:
    """unix(7): ETOOMANYREFS. They are counted by user, not by process."""
    subprocess.run([sys.executable, "-c", SEND_TOO_MANY], check=True)
