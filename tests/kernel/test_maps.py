"""What the kernel's memory holds for the exporter, as its own metrics say."""

import contextlib
import socket

from tests.kernel.exporter import Exporter
from tests.kernel.scrape import Scrape

SOCKETS = 500
BYTES_EACH = 448
"""Of the storage at a socket, as the kernel's allocator rounds it up."""


def memory(scrape: Scrape, name: str) -> float:
    return scrape.value("kernel_map_memory_bytes", map=name)


def test_memory_of_maps_is_shown_when_sockets_come(exporter: Exporter) -> None:
    before = exporter.await_scrape(lambda shown: memory(shown, "sockets") > 0, "memory of sockets")
    # Others may close some of theirs meanwhile.
    enough = memory(before, "sockets") + 0.9 * SOCKETS * BYTES_EACH
    with contextlib.ExitStack() as opened:
        receiver = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        receiver.bind(("127.0.0.1", 0))
        for _ in range(SOCKETS):
            sender = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sender.sendto(b"x", receiver.getsockname())

        exporter.await_scrape(
            lambda shown: memory(shown, "sockets") >= enough,
            "memory of more sockets",
        )

    # 8,192 slots with a command line each.
    assert memory(before, "processes") > 8192 * 512
    assert memory(before, "records") >= 64 * 4096
