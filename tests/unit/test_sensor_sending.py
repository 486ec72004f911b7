import os

from picosnitch_exporter.sensor.sending import MAX_WAITING, Sending
from picosnitch_exporter.stream import FROM_EXPORTER, FROM_SENSOR, Channel, ExecutableSeen
from tests.identity_samples import descriptor, file, is_open, seen


def test_frames_arrive_in_order_when_the_stream_was_full() -> None:
    ours, theirs = Channel.pair()
    with ours, theirs:
        ours.settimeout(0)
        theirs.settimeout(0)
        sending = Sending(Channel(ours, receives=FROM_EXPORTER))
        peer = Channel(theirs, receives=FROM_SENSOR)
        handed_over = []
        while not sending.is_congested:
            handed_over.append(descriptor())
            frame = seen(file(len(handed_over)), path=b"/" + b"x" * 4000)
            sending.send(frame, descriptor=handed_over[-1])
        assert len(sending) == MAX_WAITING
        # A descriptor stays open for as long as its frame waits: its number is not used again.
        assert handed_over[0] == handed_over[1]
        assert len(set(handed_over[-MAX_WAITING:])) == MAX_WAITING

        arrived: list[int] = []
        while len(arrived) < len(handed_over):
            try:
                found, number = peer.receive()
            except BlockingIOError:
                sending.flush()
                continue
            assert isinstance(found, ExecutableSeen)
            assert number is not None
            os.close(number)
            arrived.append(found.identity.inode)
        assert arrived == list(range(1, len(handed_over) + 1))
        assert not sending
        assert not any(map(is_open, handed_over))
