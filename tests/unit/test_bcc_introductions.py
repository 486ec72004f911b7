import mmap
import struct

from picosnitch_exporter.model import FileIdentity, ProcessKey
from picosnitch_exporter.sensor.bcc.introductions import SLOTS, SLOTS_BYTES, Introductions
from picosnitch_exporter.sensor.control import Control
from picosnitch_exporter.wire import decode_process, join_processes, split_ring

SENT, SENT_AS_ANCESTOR, SENT_LATE = 1, 2, 4
NODE_BYTES = SLOTS_BYTES // SLOTS


def node(tgid: int, sent: int, cmdline: bytes = b"") -> bytes:
    """`struct process_node` of ebpf/bcc_maps.h."""
    return struct.pack(
        "=QQII QQII QII QQQQ IHH II 16s 512s",
        *(1000 + tgid, 3, tgid, 0),
        *(500, 2, 1, 0),
        *(77, 8, 9),
        *(11, 12, 13, 14),
        *(1000, len(cmdline), 0),
        *(sent, 0),
        *(b"name", cmdline),
    )


def run(nodes: dict[int, bytes], *, is_late: bool) -> tuple[bytes, mmap.mmap]:
    memory = mmap.mmap(-1, SLOTS_BYTES)
    for slot, data in nodes.items():
        memory[slot * NODE_BYTES : (slot + 1) * NODE_BYTES] = data
    control = Control(mmap.mmap(-1, mmap.PAGESIZE))
    control.set_introducing_late(is_late=is_late)
    return Introductions(memory, control).run(), memory


def tgids(told: bytes) -> list[int]:
    pieces = b"".join(join_processes(told, 1 << 20))
    return [decode_process(record).key.tgid for record in split_ring(pieces)]


def test_all_fields_are_told_when_a_process_is_late() -> None:
    told, _memory = run({5: node(5, SENT_LATE, b"a\0b\0")}, is_late=True)
    (record,) = split_ring(b"".join(join_processes(told, 1 << 20)))
    process = decode_process(record)

    assert process.key == ProcessKey(start_ns=1005, exec_id=3, tgid=5)
    assert process.parent == ProcessKey(start_ns=500, exec_id=2, tgid=1)
    assert process.executable == FileIdentity(inode=77, device=8, generation=9)
    assert (process.exec_ns, process.changed_ns) == (11, 12)
    assert (process.cgroup_id, process.cgroup1_id, process.uid) == (13, 14, 1000)
    assert (process.comm, process.cmdline) == (b"name", b"a\0b\0")


def test_only_the_late_ones_are_told_when_only_they_are_asked_for() -> None:
    nodes = {1: node(1, SENT), 2: node(2, SENT_LATE), 3: node(3, 0), 8191: node(8191, SENT_LATE)}

    assert tgids(run(nodes, is_late=True)[0]) == [2, 8191]
    assert tgids(run(nodes, is_late=False)[0]) == [1, 2, 8191]


def test_nothing_is_told_again_when_it_was_late() -> None:
    _told, memory = run({2: node(2, SENT_LATE)}, is_late=True)

    assert memory[2 * NODE_BYTES :][:NODE_BYTES] == node(2, SENT_AS_ANCESTOR)


def test_left_out_when_its_place_is_being_taken() -> None:
    assert run({2: node(0, SENT_LATE)}, is_late=True)[0] == b""
