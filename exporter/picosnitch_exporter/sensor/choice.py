"""Which plan counts: the best one that this kernel takes, or the one that is asked for.

What loads and attaches says so, not the kernel's version.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from picosnitch_exporter.errors import (
    DescriptorError,
    KernelError,
    PicosnitchError,
    RequirementError,
)
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.sensor import btf
from picosnitch_exporter.sensor.libbpf import Library
from picosnitch_exporter.sensor.object_hooks import FEXIT, TRACEPOINT
from picosnitch_exporter.sensor.object_plan import ObjectPlan
from picosnitch_exporter.sensor.plan import Plan
from picosnitch_exporter.settings import BpfSettings

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

AUTO = "auto"


def all_plans(library: Library, settings: BpfSettings) -> Iterator[Plan]:
    """All there are, best first."""
    pages = settings.ring_buffer_pages
    sets = (TRACEPOINT, FEXIT)
    names = btf.look_up(library, (hook for programs in sets for hook in programs.hooks))
    for programs in sets:
        yield ObjectPlan(programs, library=library, names=names, ring_pages=pages)
    # Imported once it is asked for: hardly any machine comes to that.
    from picosnitch_exporter.sensor.bcc.plan import BccPlan

    yield BccPlan(library=library, ring_pages=pages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A plan that can't be used here."""

    plan: str
    error: PicosnitchError

    @property
    def reason(self) -> str:
        """Why, without what the verifier printed."""
        return str(self.error).partition("\n")[0]


class Choice:
    """The plans that may be used here, best first; `wanted` is `bpf.plan`.

    One is looked at when none before it could be used.

    Raises
    ------
    RequirementError
        if the machine lacks something for each of them.
    """

    def __init__(self, wanted: str, known: Iterable[Plan]) -> None:
        self._wanted = wanted
        self.refused: list[Refusal] = []
        """In the order in which they were tried."""
        usable = self._usable(known)
        best = next(usable, None)
        if best is None:
            raise self._failure()
        self._plans = chain((best,), usable)

    def first(self, attempt: Callable[[Plan], _Result]) -> _Result:
        """The result for the best plan with which `attempt` succeeds; to be asked once.

        Raises
        ------
        PicosnitchError
            if it fails with all of them; a `DescriptorError` at once, which says nothing of a plan.
        """
        for plan in self._plans:
            try:
                return attempt(plan)
            except DescriptorError:
                raise
            except (KernelError, RequirementError) as error:
                self.refused.append(Refusal(plan=plan.name, error=error))
                _log.debug(Event("plan_refused", {"plan": plan.name, "error": str(error)}))
        raise self._failure()

    def reasons(self) -> tuple[tuple[str, str], ...]:
        """Plans that were refused, all of them better than the chosen one, and why."""
        return tuple((one.plan, one.reason) for one in self.refused)

    def _usable(self, known: Iterable[Plan]) -> Iterator[Plan]:
        for plan in known:
            if self._wanted not in {AUTO, plan.name}:
                continue
            try:
                plan.require()
            except RequirementError as error:
                self.refused.append(Refusal(plan=plan.name, error=error))
            else:
                yield plan

    def _failure(self) -> PicosnitchError:
        if self._wanted != AUTO:
            return RequirementError(
                f"bpf.plan: {self._wanted} can't be used here: {self.refused[0].reason}"
            )
        if len({refusal.reason for refusal in self.refused}) == 1:
            return self.refused[0].error
        reasons = "; ".join(f"{plan}: {reason}" for plan, reason in self.reasons())
        return RequirementError(f"no plan can count here (docs/kernels.md): {reasons}")
