"""The system calls that each process is refused.

Lists of what is dangerous, not of what is needed: Python, glibc, OpenSSL and the database drivers
choose their calls anew with each version, and a list of all that they may need would be wrong after
an update of the system, as an outage. What is refused here is what an attacker would go on with:
other processes, namespaces, mounts, modules, keys, programs, and the parts of the kernel that had
the most holes. The names are those of syscalls(2).
"""

import errno

from picosnitch_exporter.confinement.seccomp import Compare, Condition, Refusal

_OTHER_PROCESSES = (
    "kcmp",
    "pidfd_getfd",
    "process_madvise",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
)
_KERNEL = (
    "acct",
    "add_key",
    "adjtimex",
    "clock_adjtime",
    "clock_settime",
    "create_module",
    "delete_module",
    "finit_module",
    "init_module",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "migrate_pages",
    "modify_ldt",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "perf_event_open",
    "personality",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "setdomainname",
    "sethostname",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "uselib",
    "userfaultfd",
    "vhangup",
    # Its workers make calls that no filter sees.
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
)
_MOUNTS = (
    "chroot",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "setns",
    "umount2",
    "unshare",
)
_IDENTITY = (
    "capset",
    "setfsgid",
    "setfsuid",
    "setgid",
    "setgroups",
    "setregid",
    "setresgid",
    "setresuid",
    "setreuid",
    "setuid",
)
_PROGRAMS = ("execve", "execveat")
_NEW_NAMESPACES = (
    0x00000080,  # CLONE_NEWTIME
    0x00020000,  # CLONE_NEWNS
    0x02000000,  # CLONE_NEWCGROUP
    0x04000000,  # CLONE_NEWUTS
    0x08000000,  # CLONE_NEWIPC
    0x10000000,  # CLONE_NEWUSER
    0x20000000,  # CLONE_NEWPID
    0x40000000,  # CLONE_NEWNET
)
"""include/uapi/linux/sched.h."""
_TERMINAL_INPUT = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX, by which one types for whoever has the terminal."""

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _NETLINK_ROUTE = 1, 2, 10, 16, 0
_AFTER_NETLINK = 17
_O_ACCMODE, _O_CREAT, _O_TRUNC = 0o3, 0o100, 0o1000

_WRITES = (
    "chmod",
    "chown",
    "creat",
    "fallocate",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "fchown",
    "fchownat",
    "fremovexattr",
    "fsetxattr",
    "ftruncate",
    "lchown",
    "link",
    "linkat",
    "lremovexattr",
    "lsetxattr",
    "memfd_create",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "removexattr",
    "rename",
    "renameat",
    "renameat2",
    "setxattr",
    "symlink",
    "symlinkat",
    "truncate",
)
_NETWORK = ("accept", "accept4", "bind", "connect", "listen", "socketpair")
_BPF_READS = frozenset(
    {
        1,  # BPF_MAP_LOOKUP_ELEM
        2,  # BPF_MAP_UPDATE_ELEM: a filesystem that was mounted is watched
        3,  # BPF_MAP_DELETE_ELEM
        4,  # BPF_MAP_GET_NEXT_KEY
        15,  # BPF_OBJ_GET_INFO_BY_FD
        24,  # BPF_MAP_LOOKUP_BATCH
        25,  # BPF_MAP_LOOKUP_AND_DELETE_BATCH
        33,  # BPF_ITER_CREATE
    }
)
"""enum bpf_cmd: what is done with descriptors that are open."""
_BPF_COMMANDS = 64
"""Room for what is to come; there were 38 in Linux 6.18."""


def _all(*names: str) -> tuple[Refusal, ...]:
    return tuple(Refusal(call=name) for name in names)


def _where(call: str, argument: int, compare: Compare, value: int, *, mask: int = 0) -> Refusal:
    condition = Condition(argument=argument, compare=compare, value=value, mask=mask)
    return Refusal(call=call, conditions=(condition,))


_EVERYWHERE = (
    *_all(*_OTHER_PROCESSES, *_KERNEL, *_MOUNTS, *_IDENTITY, *_PROGRAMS),
    # The flags of clone3() are in memory, where no filter looks: glibc then calls clone().
    Refusal(call="clone3", error=errno.ENOSYS),
    *(_where("clone", 0, Compare.MASKED_EQUAL, flag, mask=flag) for flag in _NEW_NAMESPACES),
    # Its lower 32 bits are what the kernel takes for the request.
    *(
        _where("ioctl", 1, Compare.MASKED_EQUAL, request, mask=0xFFFFFFFF)
        for request in _TERMINAL_INPUT
    ),
)

EXPORTER = (
    *_EVERYWHERE,
    *_all("bpf", "fanotify_init", "fanotify_mark"),
    # Left are UNIX and IP, and the routes that getaddrinfo() asks for.
    *(
        _where("socket", 0, Compare.EQUAL, family)
        for family in range(_AF_NETLINK)
        if family not in {_AF_UNIX, _AF_INET, _AF_INET6}
    ),
    _where("socket", 0, Compare.AT_LEAST, _AFTER_NETLINK),
    Refusal(
        call="socket",
        conditions=(
            Condition(argument=0, compare=Compare.EQUAL, value=_AF_NETLINK),
            Condition(argument=2, compare=Compare.NOT_EQUAL, value=_NETLINK_ROUTE),
        ),
    ),
)
"""For what listens and parses. It is an ordinary user by then."""

SENSOR = (
    *_EVERYWHERE,
    *_all(*_WRITES, *_NETWORK, "fanotify_init", "openat2"),
    # For systemd's sd_notify(3) only.
    _where("socket", 0, Compare.NOT_EQUAL, _AF_UNIX),
    # No file can be written to, as root owns most that matter. Removing is left: its own pins.
    *(
        _where(call, argument, Compare.MASKED_EQUAL, flags, mask=mask)
        for call, argument in (("open", 1), ("openat", 2))
        for flags, mask in (
            (0o1, _O_ACCMODE),
            (0o2, _O_ACCMODE),
            (0o3, _O_ACCMODE),
            (_O_CREAT, _O_CREAT),
            (_O_TRUNC, _O_TRUNC),
        )
    ),
    *(
        _where("bpf", 0, Compare.EQUAL, command)
        for command in range(_BPF_COMMANDS)
        if command not in _BPF_READS
    ),
    _where("bpf", 0, Compare.AT_LEAST, _BPF_COMMANDS),
)
"""For what has privileges, once everything is loaded and attached: from then on it only reads."""
