"""The programs of ebpf/bcc.c, and where each of them is attached."""

from picosnitch_exporter.sensor.plan import Hook, Target

MINIMUM_KERNEL = "5.12"
"""Atomic exchanges in BPF programs. Ring buffer 5.8, release of sockets and their cookies 5.7."""


def _raw(program: str, tracepoint: str, purpose: str, *, counts: bool = False) -> Hook:
    return Hook(
        program=program,
        target=Target.RAW_TRACEPOINT,
        minimum_kernel=MINIMUM_KERNEL,
        purpose=purpose,
        function=tracepoint,
        counts=counts,
    )


def _entry(
    program: str, function: str, purpose: str, *, module: str = "", loss: str | None = None
) -> Hook:
    return Hook(
        program=program,
        target=Target.KPROBE,
        minimum_kernel=MINIMUM_KERNEL,
        purpose=purpose,
        function=function,
        module=module,
        loss=loss,
        counts=True,
    )


def _return(program: str, function: str, *, module: str = "", loss: str | None = None) -> Hook:
    return Hook(
        program=program,
        target=Target.KRETPROBE,
        minimum_kernel=MINIMUM_KERNEL,
        purpose="what came of it",
        function=function,
        module=module,
        loss=loss,
        counts=True,
    )


def _call(
    program: str, function: str, purpose: str, *, module: str = "", loss: str | None = None
) -> tuple[Hook, Hook]:
    """A function whose result says how much it has moved."""
    return (
        # The return first: what finds no note of its entry counts nothing.
        _return("leave_call", function, module=module, loss=loss),
        _entry(program, function, purpose, module=module, loss=loss),
    )


def _connect(function: str, *, module: str = "", loss: str | None = None) -> tuple[Hook, Hook]:
    return (
        _return("leave_connect", function, module=module, loss=loss),
        _entry("enter_connect", function, "connects that find no route", module=module, loss=loss),
    )


def _drain(program: str, purpose: str) -> Hook:
    return Hook(
        program=program, target=Target.FILTER, minimum_kernel=MINIMUM_KERNEL, purpose=purpose
    )


def _cgroup(program: str, purpose: str) -> Hook:
    return Hook(
        program=program, target=Target.CGROUP, minimum_kernel=MINIMUM_KERNEL, purpose=purpose
    )


_IPV6 = "IPv6"
_PACKET = "AF_PACKET"

HOOKS = (
    _drain("drain_sockets", "report what sockets have counted"),
    _drain("drain_flows", "report flows"),
    _drain("expire_flows", "expire flows"),
    _drain("drain_fallback", "report what found the ring full"),
    _cgroup("make_cookie", "a number for each socket, which DNS answers have too"),
    _cgroup("find_answers", "DNS answers"),
    _raw("note_exec", "sched_process_exec", "command lines and executables at exec"),
    _raw("note_cgroup", "cgroup_mkdir", "names of cgroups, for containers"),
    _entry("release", "inet_release", "the last count of a socket"),
    _raw("count_state", "inet_sock_set_state", "connects of TCP, and their failures", counts=True),
    *_connect("tcp_v4_connect"),
    *_connect("tcp_v6_connect", module="ipv6", loss=_IPV6),
    *_call("enter_accept", "inet_accept", "connections that are accepted"),
    _raw("count_tcp", "tcp_rcv_space_adjust", "bytes received by TCP", counts=True),
    _entry("count_datagram", "skb_consume_udp", "bytes received by UDP, and from whom"),
    _entry("note_peer", "skb_free_datagram", "peers of raw sockets that receive"),
    *_call("enter_receive", "inet_recvmsg", "bytes received by all others"),
    *_call("enter_receive", "inet6_recvmsg", "the same", module="ipv6", loss=_IPV6),
    *_call("enter_receive", "sock_common_recvmsg", "the same, by raw sockets of IPv6"),
    *_call("enter_send", "inet_sendmsg", "bytes sent, and to whom"),
    *_call("enter_send", "inet6_sendmsg", "the same", module="ipv6", loss=_IPV6),
    *_call("enter_sendpage", "inet_sendpage", "bytes sent by sendfile (until 6.4)", loss=""),
    *_call("enter_receive", "packet_recvmsg", "AF_PACKET", module="af_packet", loss=_PACKET),
    *_call("enter_send", "packet_sendmsg", "AF_PACKET", module="af_packet", loss=_PACKET),
    *_call("enter_send", "packet_sendmsg_spkt", "AF_PACKET", module="af_packet", loss=_PACKET),
)
"""The release before what makes states for it to remove."""

MAPS = (
    "control_block",
    "counters",
    "drain",
    "fallback",
    "flows",
    "new_cgroups",
    "processes",
    "records",
    "sockets",
    "watched_devices",
)
"""Those that user space has to do with."""

LOSSES = (
    "AF_VSOCK",
    "sockets whose bytes no hook can see (packet rings, AF_XDP) are not told of",
    "kTLS receives by splice()",
    "reads that waited when counting began",
    "what passes between a stop and the next start: nothing can be pinned",
)
"""What the other plans see."""
