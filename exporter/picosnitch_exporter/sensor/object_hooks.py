"""The programs of the built BPF object: which of them make up which plan."""

from dataclasses import dataclass

from picosnitch_exporter.sensor.plan import Hook, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The programs of a plan; `blind_beside` is a function on whose kernels they miss something."""

    plan: str
    hooks: tuple[Hook, ...]
    blind_beside: str = ""


def _tracepoint(program: str, minimum_kernel: str, purpose: str, *, counts: bool = False) -> Hook:
    return Hook(
        program=program,
        target=Target.TRACEPOINT,
        minimum_kernel=minimum_kernel,
        purpose=purpose,
        counts=counts,
    )


def _function(
    program: str,
    purpose: str,
    *,
    minimum_kernel: str = "5.15",
    module: str = "",
    loss: str | None = None,
) -> Hook:
    return Hook(
        program=program,
        target=Target.FUNCTION,
        minimum_kernel=minimum_kernel,
        purpose=purpose,
        module=module,
        loss=loss,
        counts=True,
    )


def _cgroup(program: str, minimum_kernel: str, purpose: str) -> Hook:
    return Hook(
        program=program, target=Target.CGROUP, minimum_kernel=minimum_kernel, purpose=purpose
    )


def _iterator(program: str, over: str, purpose: str) -> Hook:
    return Hook(
        program=program,
        target=Target.ITERATOR,
        over=over,
        minimum_kernel="5.9",
        purpose=purpose,
    )


_FIRST = (
    _iterator("drain_sockets", "sockets", "report what sockets have counted"),
    _iterator("drain_flows", "flows", "report and expire flows"),
    _iterator("drain_fallback", "fallback", "report what found the ring full"),
    _iterator("find_processes", "", "processes from before the start"),
    _iterator("introduce_again", "processes", "processes that an earlier run was told of"),
    _iterator("find_sockets", "", "sockets from before the start"),
    _iterator("find_unseen", "", "sockets whose bytes no hook can see"),
    _tracepoint("sched_process_exec", "5.5", "command lines and executables at exec"),
    _tracepoint("cgroup_mkdir", "5.5", "names of cgroups, for containers"),
    _tracepoint("inet_sock_set_state", "5.5", "connects, accepts and failures of TCP"),
    _tracepoint("tcp_rcv_space_adjust", "5.5", "bytes received by TCP"),
)
"""Iterators first: without them nothing that is counted could be read."""
_LAST = (
    _tracepoint("skb_copy_datagram_iovec", "5.5", "peers of raw sockets that receive"),
    _cgroup("connect4", "4.17", "connects that find no route"),
    _cgroup("connect6", "4.17", "connects that find no route"),
    _cgroup("sock_release", "5.9", "the last count of a socket"),
    _cgroup("dns_ingress", "5.11", "DNS answers, and peers of receives that don't ask for them"),
)

TRACEPOINT = Programs(
    plan="tracepoint",
    # Until 6.4 sendfile() takes this function, past the tracepoints of 6.3 (dc97391e6610).
    blind_beside="inet_sendpage",
    hooks=(
        *_FIRST,
        _tracepoint("sock_send_length", "6.3", "bytes sent", counts=True),
        _tracepoint("sock_recv_length", "6.3", "bytes received by all but TCP", counts=True),
        _cgroup("sendmsg4", "4.18", "peers of unconnected datagrams"),
        _cgroup("sendmsg6", "4.18", "peers of unconnected datagrams"),
        _cgroup("recvmsg4", "5.2", "peers of unconnected datagrams"),
        _cgroup("recvmsg6", "5.2", "peers of unconnected datagrams"),
        _cgroup("note_destination", "5.11", "peers of raw sockets that send"),
        *_LAST,
    ),
)

_IPV6 = "IPv6, where its module was loaded after the start"
_PACKET = "AF_PACKET, where its module was loaded after the start"
_VSOCK = "AF_VSOCK, where its module was loaded after the start"

FEXIT = Programs(
    plan="fexit",
    hooks=(
        *_FIRST,
        _function("inet_sendmsg", "bytes sent, and to whom"),
        _function("inet6_sendmsg", "bytes sent, and to whom", module="ipv6", loss=_IPV6),
        # Before its end, so that no thread is inside without a note of it.
        Hook(
            program="begin_sendpage",
            target=Target.FUNCTION,
            function="inet_sendpage",
            minimum_kernel="5.15",
            purpose="sendfile to UDP that is counted elsewhere (until Linux 6.4)",
            loss="",
            counts=True,
        ),
        Hook(
            program="inet_sendpage",
            target=Target.FUNCTION,
            minimum_kernel="5.15",
            purpose="bytes sent by sendfile (until Linux 6.4)",
            loss="",
            counts=True,
        ),
        _function("inet_recvmsg", "bytes received by all but TCP, and from whom"),
        _function(
            "inet6_recvmsg",
            "bytes received by all but TCP, and from whom",
            module="ipv6",
            loss=_IPV6,
        ),
        _function("sock_common_recvmsg", "bytes received by raw sockets of IPv6"),
        _function("packet_sendmsg", "bytes of AF_PACKET", module="af_packet", loss=_PACKET),
        _function("packet_sendmsg_spkt", "bytes of AF_PACKET", module="af_packet", loss=_PACKET),
        _function("packet_recvmsg", "bytes of AF_PACKET", module="af_packet", loss=_PACKET),
        _function("vsock_connectible_sendmsg", "bytes of AF_VSOCK", module="vsock", loss=_VSOCK),
        _function("vsock_connectible_recvmsg", "bytes of AF_VSOCK", module="vsock", loss=_VSOCK),
        _function("vsock_dgram_sendmsg", "bytes of AF_VSOCK", module="vsock", loss=_VSOCK),
        _function("vsock_dgram_recvmsg", "bytes of AF_VSOCK", module="vsock", loss=_VSOCK),
        *_LAST,
    ),
)
