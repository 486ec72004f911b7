"""The exceptions of this package.

::

    PicosnitchError              anything this program says about itself; exit code 1
    ├── UsageError               wrong flags or arguments; exit code 2
    │   └── ConfigurationError   a file or key of the configuration
    ├── RequirementError         something that the machine lacks: privileges, kernel, package
    ├── KernelError              libbpf or a system call refused what the machine should have
    │   └── DescriptorError      no file descriptor left: trying later may work
    ├── StorageError             the storage path or a database in it
    │   ├── StorageFullError     no room left, on the disk or within a bound of our own
    │   └── StorageBusyError     somebody else holds the lock
    ├── WireError                a record or frame that is not of the shape it has to be
    └── PeerGoneError            the other one of the two processes has ended

The message is for the operator: what is wrong, where, and what to do next.
"""


class PicosnitchError(Exception):
    """Anything this program says about itself."""

    exit_code = 1


class UsageError(PicosnitchError):
    """Wrong flags or arguments."""

    exit_code = 2


class ConfigurationError(UsageError):
    """A configuration that can't be used; the message names the file and the key."""


class RequirementError(PicosnitchError):
    """Something that the machine lacks; the message names the command that mends it."""


class KernelError(PicosnitchError):
    """The kernel refused something that it should be able to do."""


class DescriptorError(KernelError):
    """This process, or the machine, has no file descriptor left; trying later may work."""


class StorageError(PicosnitchError):
    """The storage path, or a file in it, can't be used."""


class StorageFullError(StorageError):
    """There is no room left, on the disk or within a bound of our own; trying later may work."""


class StorageBusyError(StorageError):
    """Somebody else holds the lock; trying later may work."""


class WireError(PicosnitchError):
    """A record or frame that is not of the shape it has to be."""


class PeerGoneError(PicosnitchError):
    """The other one of the two processes has closed the stream."""
