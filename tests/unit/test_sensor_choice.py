"""Which plan is chosen, by what a kernel has and what it refuses."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from picosnitch_exporter.errors import DescriptorError, KernelError, RequirementError
from picosnitch_exporter.sensor import requirements
from picosnitch_exporter.sensor.btf import KernelNames, look_up
from picosnitch_exporter.sensor.choice import Choice
from picosnitch_exporter.sensor.kernel_side import KernelSide
from picosnitch_exporter.sensor.object_hooks import FEXIT, TRACEPOINT, Programs
from picosnitch_exporter.sensor.object_plan import ObjectPlan
from picosnitch_exporter.sensor.plan import Hook, Plan, Target

if TYPE_CHECKING:
    from picosnitch_exporter.sensor.libbpf import Library

HOOKS = (*TRACEPOINT.hooks, *FEXIT.hooks)
OLD_TRACEPOINTS = frozenset(
    hook.attached_to for hook in FEXIT.hooks if hook.target is Target.TRACEPOINT
)
ALL_TRACEPOINTS = OLD_TRACEPOINTS | {"sock_send_length", "sock_recv_length"}
FUNCTIONS = frozenset(
    hook.attached_to
    for hook in FEXIT.hooks
    if hook.target is Target.FUNCTION and hook.module != "vsock"
)


@dataclass(kw_only=True)
class FakePlan:
    """Says what a plan would say; `attempts` are the errors of the tries that are made of it."""

    name: str
    lacking: str = ""
    attempts: list[Exception] = field(default_factory=list)
    hooks: tuple[Hook, ...] = ()

    def require(self) -> None:
        if self.lacking:
            raise RequirementError(self.lacking)

    def prove(self) -> None:
        if self.attempts:
            raise self.attempts.pop(0)

    def losses(self) -> tuple[str, ...]:
        return ()

    def start(self, root: Path | None) -> KernelSide:
        raise NotImplementedError(root)


def chosen(wanted: str, *plans: FakePlan) -> tuple[str, tuple[tuple[str, str], ...]]:
    choice = Choice(wanted, plans)

    def attempt(plan: Plan) -> str:
        plan.prove()
        return plan.name

    return choice.first(attempt), choice.reasons()


def test_best_is_chosen_when_the_machine_takes_all() -> None:
    assert chosen("auto", FakePlan(name="a"), FakePlan(name="b")) == ("a", ())


def test_nothing_is_said_of_a_worse_one_when_the_best_is_chosen() -> None:
    plans = FakePlan(name="a"), FakePlan(name="b", lacking="no b here")
    assert chosen("auto", *plans) == ("a", ())


def test_worse_one_is_not_even_made_when_a_better_one_is_chosen() -> None:
    def known() -> Iterator[FakePlan]:
        yield FakePlan(name="a", lacking="no a here")
        yield FakePlan(name="b")
        pytest.fail("asked for the next one")

    assert Choice("auto", known()).first(lambda plan: plan.name) == "b"


def test_next_is_chosen_and_the_reason_kept_when_something_is_lacking() -> None:
    plans = FakePlan(name="a", lacking="no a here"), FakePlan(name="b")
    assert chosen("auto", *plans) == ("b", (("a", "no a here"),))


def test_next_is_chosen_when_the_kernel_refuses_and_the_reason_is_one_line() -> None:
    refused = FakePlan(name="a", attempts=[KernelError("refused\nwhat the verifier said")])
    assert chosen("auto", refused, FakePlan(name="b")) == ("b", (("a", "refused"),))


def test_no_other_is_tried_when_one_is_named() -> None:
    assert chosen("b", FakePlan(name="a"), FakePlan(name="b")) == ("b", ())
    with pytest.raises(RequirementError, match=r"^bpf.plan: b can't be used here: no b here$"):
        chosen("b", FakePlan(name="a"), FakePlan(name="b", lacking="no b here"))
    refused = FakePlan(name="b", attempts=[KernelError("refused\nby the verifier")])
    with pytest.raises(RequirementError, match=r"b can't be used here: refused$"):
        chosen("b", FakePlan(name="a"), refused)


def test_all_reasons_are_named_when_none_can_be_used() -> None:
    with pytest.raises(RequirementError, match="a: no a; b: no b") as raised:
        chosen("auto", FakePlan(name="a", lacking="no a"), FakePlan(name="b", lacking="no b"))
    assert "\n" not in str(raised.value)


def test_reason_is_not_repeated_when_it_is_the_same_for_all() -> None:
    with pytest.raises(RequirementError, match=r"^no BTF$"):
        chosen("auto", FakePlan(name="a", lacking="no BTF"), FakePlan(name="b", lacking="no BTF"))


def test_no_other_is_tried_when_descriptors_have_run_out() -> None:
    """A shortage says nothing of a plan, and must not choose a worse one."""
    with pytest.raises(DescriptorError):
        chosen("auto", FakePlan(name="a", attempts=[DescriptorError("none")]), FakePlan(name="b"))


class FakeLibrary:
    """Answers for a kernel with these names in its BTF."""

    def __init__(self, *names: str) -> None:
        self._names = names

    @contextlib.contextmanager
    def kernel_types(self) -> Iterator[Callable[[str, int], bool]]:
        yield lambda name, _kind: name in self._names


def object_plan(programs: Programs, names: KernelNames) -> ObjectPlan:
    library = cast("Library", FakeLibrary())
    return ObjectPlan(programs, library=library, names=names, ring_pages=64)


@pytest.fixture
def btf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "vmlinux"
    file.touch()
    monkeypatch.setattr(requirements, "BTF", file)


@pytest.mark.usefixtures("btf")
@pytest.mark.parametrize(
    ("tracepoints", "functions", "expected"),
    [
        (ALL_TRACEPOINTS, FUNCTIONS - {"inet_sendpage"}, "tracepoint"),  # 6.5 and up
        (ALL_TRACEPOINTS, FUNCTIONS, "fexit"),  # 6.3 and 6.4: sendfile passes the tracepoints
        (OLD_TRACEPOINTS, FUNCTIONS, "fexit"),  # up to 6.2
    ],
    ids=["6.5", "6.4", "6.2"],
)
def test_plan_is_the_one_that_sees_all_when_kernels_differ(
    tracepoints: frozenset[str], functions: frozenset[str], expected: str
) -> None:
    names = KernelNames(tracepoints=tracepoints, functions=functions)
    plans = object_plan(TRACEPOINT, names), object_plan(FEXIT, names)
    assert Choice("auto", plans).first(lambda plan: plan.name) == expected


@pytest.mark.usefixtures("btf")
def test_function_is_named_when_the_kernel_lacks_one_that_the_plan_needs() -> None:
    names = KernelNames(tracepoints=ALL_TRACEPOINTS, functions=FUNCTIONS - {"inet_recvmsg"})
    with pytest.raises(RequirementError, match="lacks the function inet_recvmsg"):
        object_plan(FEXIT, names).require()


@pytest.mark.usefixtures("btf")
def test_loss_is_said_once_when_the_functions_of_a_module_are_missing() -> None:
    plan = object_plan(FEXIT, KernelNames(tracepoints=OLD_TRACEPOINTS, functions=FUNCTIONS))
    plan.require()
    assert [loss.split(",")[0] for loss in plan.losses()] == ["AF_VSOCK"]
    assert not any("vsock" in hook.program for hook in plan.hooks)


def test_nothing_is_lost_when_pages_are_not_sent_by_a_function_any_more() -> None:
    names = KernelNames(tracepoints=ALL_TRACEPOINTS, functions=FUNCTIONS - {"inet_sendpage"})
    plan = object_plan(FEXIT, names)
    assert [loss for loss in plan.losses() if "VSOCK" not in loss] == []
    assert "begin_sendpage" not in [hook.program for hook in plan.hooks]


def test_names_are_those_of_the_kernel_when_they_are_looked_up() -> None:
    library = cast("Library", FakeLibrary("btf_trace_sock_send_length", "inet_sendpage"))
    names = look_up(library, [hook for hook in HOOKS if hook.module != "vsock"])
    assert names.tracepoints == {"sock_send_length"}
    assert "inet_sendpage" in names.functions
    assert "inet_sendmsg" not in names.functions
