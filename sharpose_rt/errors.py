"""Every exception that this package raises on purpose.

    SharposeError
    ├── ConfigError          an option or a configuration file is wrong
    ├── SourceError          a source cannot be opened, read or understood
    │   └── SourceAway       ... because a live one is not available now; it may be later
    │       ├── SourceTimeout    it did not answer in time
    │       └── SourceLost       it answered and then went away
    ├── DetectorError        a detector or its boxes cannot be used
    ├── WeightsError         weights are missing, damaged, or do not fit the model
    ├── DatasetError         a training or evaluation set is wrong (names file and record)
    ├── StreamError          a skeleton stream violates its schema (names line and field)
    ├── OutputError          something cannot be written
    └── DeviceError          the requested device does not exist or does not work

Each message says what was wrong, the value seen, what is accepted, and what to try next. The command line prints only
the message, without a traceback, and exits with status 2, for SourceAway with 75. It also exits with 2 if memory runs
out (`memory_report`), a GPU fails (`gpu_report`), a library is missing (`library_report`), or a file cannot be accessed
or written (`system_report`). Any other exception is a bug and keeps its traceback.
"""

import contextlib
import errno
import os
import re
import reprlib
import sys
from collections.abc import Iterator


class SharposeError(Exception):
    """Base of every error that a user can cause or fix."""


class ConfigError(SharposeError, ValueError):
    """An option or a configuration file is wrong."""


class SourceError(SharposeError, OSError):
    """A source cannot be opened, read or understood."""


class SourceAway(SourceError):
    """A camera or server is not available now."""


class SourceTimeout(SourceAway):
    """A source did not answer within its time limit."""


class SourceLost(SourceAway):
    """A live source was lost."""


class DetectorError(SharposeError, RuntimeError):
    """A detector or its boxes cannot be used."""


class WeightsError(SharposeError, RuntimeError):
    """Weights are missing, damaged, or do not fit the model."""


class DatasetError(SharposeError, ValueError):
    """A training or evaluation set is wrong."""


class StreamError(SharposeError, ValueError):
    """A skeleton stream violates its schema."""


class OutputError(SharposeError, OSError):
    """An output cannot be written."""


class DeviceError(SharposeError, RuntimeError):
    """The requested device does not exist or does not work."""


@contextlib.contextmanager
def writing(what: object, advice: str, *also: type[Exception]) -> Iterator[None]:
    """Raises OutputError, with reason and advice, if `what` cannot be written in the block.

    That is an OSError, or an exception of a library given in `also`. Exceptions of this package pass through.
    """
    try:
        yield
    except SharposeError:
        raise
    except (OSError, *also) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{what} cannot be written ({reason}); {advice}") from error


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 3, 8, 8, 200, 200


def shown(value: object) -> str:
    """A value from a file, shortened for a message: with YAML aliases it could be gigabytes when written out."""
    return _SHORT.repr(value)


def memory_report(error: BaseException) -> str:
    """The first sentences of a torch.OutOfMemoryError: how much memory was requested and free. For OpenVINO what was
    wrong, without the lines that say where."""
    lines = [line for line in str(error).splitlines() if not re.fullmatch(r"Exception from \S+:", line)]
    return ". ".join(lines[0].split(". ")[:3]).rstrip(".") if lines else type(error).__name__


def is_short_of_memory(error: BaseException) -> bool:
    """Whether an error means that the machine is out of memory, or of threads, which is reported alike: by its class,
    or the wording of Python, torch, oneDNN or OpenVINO."""
    if isinstance(error, MemoryError):
        return True
    words = (
        "allocate memory|not enough memory|std::bad_alloc|Resource temporarily unavail|can't (alloc|start new thread)"
    )
    return bool(re.search(rf"{words}|could not create a (primitive|memory object)(?! descr)", str(error)))


def is_short_of_gpu_memory(error: BaseException) -> bool:
    """Whether an error means that a GPU is out of memory: a torch.OutOfMemoryError, or an error of CUDA and its
    libraries about memory that torch does not manage."""
    in_words = re.search(r"CUDA error: out of memory|CU[A-Z]+_STATUS_ALLOC_FAILED", str(error))
    return type(error).__name__ == "OutOfMemoryError" or in_words is not None


def gpu_report(error: BaseException) -> str | None:
    """The message of a GPU that failed; None for other causes. The place in the program where it was noticed says
    little, as the GPU works asynchronously."""
    found = re.search(r"(?:CUDA|cuDNN|HIP) error: ([^\n]+)", str(error))
    return found and found[1].rstrip(". ")


def library_report(error: ImportError) -> str | None:
    """Which package is missing, for example after `pip install --no-deps` or in another Python, or which library of the
    system, for example in a slim container, and how to install it; None for other causes."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("sharpose_rt"):
        return (
            f"the package {error.name.partition('.')[0]} is missing in {sys.executable}: run `pip install sharpose-rt` "
            "for that Python, or use the Python that has it"
        )
    found = re.match(r"(\S+\.so[.\d]*): cannot open shared object file", str(error))
    if found is None:
        return None
    library, advice = found[1], "install the system package that contains it"
    if library.startswith(("libGL.", "libgthread-", "libglib-")):  # OpenCV's
        advice = "`apt-get install libgl1 libglib2.0-0`, or opencv-python-headless instead of opencv-python"
    return f"{library} of the system is missing: {advice}"


def system_report(error: OSError) -> str | None:
    """Which file or folder cannot be accessed, or that a disk is full; None for other causes.

    Even `Path.is_file` raises if a folder on the way must not be entered, or a name is too long.
    """
    if error.errno == errno.ENOSPC:
        return f"cannot print or write ({error.strerror}); free some space, or write elsewhere"
    hidden = error.errno in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
    if not hidden or not isinstance(error.filename, str | bytes):
        return None
    return not_looked_at(os.fsdecode(error.filename), str(error.strerror))


def not_looked_at(name: str, reason: str) -> str:
    """The message for a file or folder that cannot be accessed."""
    return f"{name} cannot be accessed ({reason}); check its name, and the permissions of its folders"
