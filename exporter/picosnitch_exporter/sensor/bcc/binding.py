"""BCC's Python bindings, those of the operating system and no others.

On PyPI, `bcc` is a lattice library. So nothing is imported by that name from where Python looks:
only the folder of the system's packages is, and only if it holds BCC. Source: bcc's libbcc.py and
libbpf.h.
"""

import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, cast

from picosnitch_exporter.errors import KernelError, RequirementError

_FOLDERS = (
    Path("/usr/lib/python3/dist-packages"),
    *(
        Path(library) / f"python3.{sys.version_info.minor}" / "site-packages"
        for library in ("/usr/lib", "/usr/lib64")
    ),
)
"""Debian and Ubuntu; the others."""
INSTALL = "apt-get install python3-bpfcc (elsewhere: the package python3-bcc or python-bcc)"


class Calls(Protocol):
    """What is used of libbcc."""

    def bpf_table_fd(self, module: object, name: bytes) -> int:
        """Descriptor of a map, negative where there is none."""

    def bpf_attach_raw_tracepoint(self, program: int, name: bytes) -> int:
        """Descriptor of the link."""

    def bpf_attach_tracepoint(self, program: int, category: bytes, name: bytes) -> int:
        """Descriptor of the perf event; a kprobe's event counts as a tracepoint."""


class Loaded(Protocol):
    """A program."""

    fd: int


class Module(Protocol):
    """A text that was compiled; its maps exist."""

    module: object

    def load_func(self, func_name: str, prog_type: int) -> Loaded:
        """Loads one program; Exception with what the kernel says."""


class _Compiler(Protocol):
    def __call__(self, *, text: str, cflags: Sequence[str]) -> Module:
        """Compiles; Exception, and the compiler's messages on the standard error."""


class _Package(Protocol):
    BPF: _Compiler
    lib: Calls
    __version__: str


def find(folders: Iterable[Path] = _FOLDERS) -> Path:
    """The folder of the package.

    Raises
    ------
    RequirementError
        if there is none, or it is another one of that name.
    """
    for folder in folders:
        package = folder / "bcc"
        if (package / "libbcc.py").exists():
            return package
        if package.exists():
            raise RequirementError(
                f"{package} is not BCC but another package of that name: remove it (pip uninstall "
                f"bcc), then {INSTALL}"
            )
    raise RequirementError(f"the Python bindings of BCC are missing: {INSTALL}")


class Binding:
    """BCC itself; imported when this is made.

    Raises
    ------
    RequirementError
        if it is not there, or can't be imported.
    """

    def __init__(self) -> None:
        package = find()
        spec = importlib.util.spec_from_file_location(
            "bcc", package / "__init__.py", submodule_search_locations=[str(package)]
        )
        if spec is None or spec.loader is None:
            raise RequirementError(f"{package} can't be imported (no module): {INSTALL}")
        module = importlib.util.module_from_spec(spec)
        # Its own modules import one another by this name.
        sys.modules["bcc"] = module
        try:
            spec.loader.exec_module(module)
        except (ImportError, OSError) as error:
            raise RequirementError(f"{package} can't be imported ({error}): {INSTALL}") from error
        self._package = cast("_Package", module)

    @property
    def version(self) -> str:
        """Of the bindings."""
        return self._package.__version__

    @property
    def calls(self) -> Calls:
        """The functions of libbcc."""
        return self._package.lib

    def compile(self, text: str, flags: Sequence[str]) -> Module:
        """Compiles with the headers of the running kernel, and makes the maps.

        Raises
        ------
        KernelError
            if either fails; the compiler has written why on the standard error.
        """
        try:
            return self._package.BPF(text=text, cflags=flags)
        except Exception as error:
            raise KernelError(str(error)) from error

    def load(self, module: Module, program: str, kind: int) -> int:
        """Loads one program; its descriptor. `kind` is one of enum bpf_prog_type.

        Raises
        ------
        KernelError
            if the kernel refuses it; BCC has written why on the standard error.
        """
        try:
            return module.load_func(program, kind).fd
        except Exception as error:
            raise KernelError(str(error)) from error

    def map(self, module: Module, name: str) -> int:
        """The descriptor of a map.

        Raises
        ------
        KernelError
            if it was not made.
        """
        descriptor = self.calls.bpf_table_fd(module.module, name.encode())
        if descriptor < 0:
            raise KernelError(f"BCC has made no map {name}")
        return descriptor
