"""A file as the body of a form (RFC 7578), read from its descriptor while it is sent."""

import hashlib
import os
import secrets
from collections.abc import Iterator

from picosnitch_exporter.checks.client import Body, RequestError
from picosnitch_exporter.model import Sha256

_PIECE_BYTES = 256 * 1024


def file_body(descriptor: int, *, sha256: Sha256, size_bytes: int) -> Body:
    """The form with the field `file`; the file is named by its hash, its path is nobody's business.

    Sending it raises RequestError where the content is another one by now: the form is never ended
    then, so that the receiver has no file. The file offset is neither used nor moved, since it is
    shared with whoever sent the descriptor.
    """
    boundary = secrets.token_hex(16)
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{sha256}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode("ascii")
    tail = f"\r\n--{boundary}--\r\n".encode("ascii")
    return Body(
        size_bytes=len(head) + size_bytes + len(tail),
        content_type=f"multipart/form-data; boundary={boundary}",
        pieces=_pieces(descriptor, head, tail, sha256=sha256, size_bytes=size_bytes),
    )


def _pieces(
    descriptor: int, head: bytes, tail: bytes, *, sha256: Sha256, size_bytes: int
) -> Iterator[bytes]:
    yield head
    digest = hashlib.sha256()
    offset = 0
    while offset < size_bytes:
        try:
            piece = os.pread(descriptor, min(_PIECE_BYTES, size_bytes - offset), offset)
        except OSError as error:
            raise RequestError("unreadable", f"{error.strerror}") from error
        if not piece:
            break
        digest.update(piece)
        offset += len(piece)
        yield piece
    if offset < size_bytes or digest.hexdigest() != sha256:
        raise RequestError("modified", "the file was changed since it was hashed")
    yield tail
