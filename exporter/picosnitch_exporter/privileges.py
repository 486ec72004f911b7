"""Giving up privileges, for the process that listens and parses.

Source: capabilities(7), prctl(2), include/uapi/linux/prctl.h.
"""

import ctypes
import errno
import grp
import os
import pwd
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from picosnitch_exporter.errors import ConfigurationError, RequirementError

DEFAULT_USER = "picosnitch-exporter"
_FALLBACK_USER = "nobody"
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION_3 = 0x20080522
_WORD_BITS = 32
CAP_CHOWN = 0
CAP_DAC_READ_SEARCH = 2
CAP_KILL = 5
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
CAP_BPF = 39
"""By number in include/uapi/linux/capability.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whom the exporter process runs as."""

    name: str
    uid: int
    gid: int


def find_account(name: str | None) -> Account:
    """The account to run as: the given one, else picosnitch-exporter, else nobody.

    Raises
    ------
    ConfigurationError
        if the given one does not exist.
    """
    for candidate in (name,) if name else (DEFAULT_USER, _FALLBACK_USER):
        try:
            entry = pwd.getpwnam(candidate)
        except KeyError:
            continue
        return Account(name=candidate, uid=entry.pw_uid, gid=entry.pw_gid)
    if name:
        raise ConfigurationError(
            f"storage.user: there is no account {name!r}: useradd --system {name}"
        )
    return Account(name="65534", uid=65534, gid=65534)


def find_group(name: str | None) -> int | None:
    """The number of a group, None where none is named.

    Raises
    ------
    ConfigurationError
        if it does not exist.
    """
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise ConfigurationError(
            f"storage.group: there is no group {name!r}: groupadd --system {name}"
        ) from error


def held() -> frozenset[int]:
    """The capabilities in effect, by number."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
            return frozenset(bit for bit in range(_LAST_CAPABILITY + 1) if mask >> bit & 1)
    return frozenset()


def may_list(account: Account, folder: Path) -> bool:
    """Whether an account without capabilities may list a folder and open what is in it.

    By the permissions alone: an access control list may allow more. What can't be looked at is
    closed.
    """
    chains = {(path, *path.parents) for path in (folder.absolute(), folder.resolve())}
    return all(
        _permits(account, one, stat.S_IROTH | stat.S_IXOTH if one is chain[0] else stat.S_IXOTH)
        for chain in chains
        for one in chain
    )


def _permits(account: Account, path: Path, wanted: int) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    if account.uid == found.st_uid:
        wanted <<= 6
    elif account.gid == found.st_gid:
        wanted <<= 3
    return found.st_mode & wanted == wanted


def works_without_any(attempt: Callable[[], object], refusal: type[Exception]) -> bool:
    """Whether a call works where no capability is in effect; `refusal` is raised if it does not.

    In a thread of its own: unlike a process's user, capabilities are each thread's (capset(2)).
    """
    refused: list[Exception] = []

    def attempted() -> None:
        try:
            _set(ctypes.CDLL(None, use_errno=True), ())
            attempt()
        except (refusal, RequirementError) as error:
            refused.append(error)

    thread = threading.Thread(target=attempted)
    thread.start()
    thread.join()
    return not refused


def drop(account: Account) -> None:
    """Becomes `account`, for good: no capability is left, and none can be gained by an exec.

    Raises
    ------
    RequirementError
        if the kernel does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _limit(libc, ())
    try:
        os.setgroups([])
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as error:
        raise RequirementError(
            f"can't become {account.name}: {error.strerror} (CAP_SETUID and CAP_SETGID are needed)"
        ) from error
    # The kernel has taken the effective and the permitted ones at the change of user, no others.
    _set(libc, ())
    _gain_no_more(libc)


def keep_only(*capabilities: int) -> None:
    """Stays root, but with these capabilities only, and none can be gained by an exec.

    Raises
    ------
    RequirementError
        if the kernel does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _limit(libc, capabilities)
    _set(libc, capabilities)
    _gain_no_more(libc)


def _limit(libc: ctypes.CDLL, kept: tuple[int, ...]) -> None:
    """Takes all other capabilities out of the bounding set, and all out of the ambient one."""
    for capability in range(_LAST_CAPABILITY + 1):
        if capability not in kept and libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            if ctypes.get_errno() == errno.EINVAL:
                break
            raise RequirementError(
                f"capability {capability} can't be dropped: {os.strerror(ctypes.get_errno())}"
            )
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def _set(libc: ctypes.CDLL, capabilities: tuple[int, ...]) -> None:
    kept = sum(1 << capability for capability in set(capabilities))
    low, high = kept & (1 << _WORD_BITS) - 1, kept >> _WORD_BITS
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable for the capabilities up to 31, then for the others.
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if libc.capset(header, data):
        raise RequirementError(f"capabilities can't be given up: {os.strerror(ctypes.get_errno())}")


def _gain_no_more(libc: ctypes.CDLL) -> None:
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise RequirementError(f"no_new_privs can't be set: {os.strerror(ctypes.get_errno())}")
