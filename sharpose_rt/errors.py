"""Every exception that this package raises on purpose.

    SharposeError
    ├── ConfigError          an option or a configuration file is wrong
    ├── SourceError          a source cannot be opened, read or understood
    │   └── SourceAway       ... because a live one is not there now; it may be later
    │       ├── SourceTimeout    it did not answer in time
    │       └── SourceLost       it answered and then went away
    ├── DetectorError        a detector or its boxes cannot be had
    ├── WeightsError         weights are missing, damaged, or do not fit the model
    ├── DatasetError         a training or evaluation set is wrong (names file and record)
    ├── StreamError          a skeleton stream breaks its schema (names line and field)
    ├── OutputError          something cannot be written
    └── DeviceError          the wanted device is not there or does not work

Each message says what was wrong, the value seen, what is accepted, and what to try next. The command line prints
the message alone, without a traceback, and exits with status 2, for SourceAway with 75. With 2 it exits too where a
GPU's memory does not suffice, by `memory_report`, or it fails, by `gpu_report`, where the system lacks a library, by
`library_report`, and where it does not let a file be looked at or written, by `system_report`. Any other exception is
a bug and keeps its traceback.
"""

import contextlib
import errno
import os
import re
import reprlib
import sys
from collections.abc import Iterator


class SharposeError(Exception):
    """Base of every error that a user can cause or cure."""


class ConfigError(SharposeError, ValueError):
    """An option or a configuration file is wrong."""


class SourceError(SharposeError, OSError):
    """A source cannot be opened, read or understood."""


class SourceAway(SourceError):
    """A camera or a server is not there now."""


class SourceTimeout(SourceAway):
    """A source did not answer within its time limit."""


class SourceLost(SourceAway):
    """A source that was live is gone."""


class DetectorError(SharposeError, RuntimeError):
    """A detector or its boxes cannot be had."""


class WeightsError(SharposeError, RuntimeError):
    """Weights are missing, damaged, or do not fit the model."""


class DatasetError(SharposeError, ValueError):
    """A training or evaluation set is wrong."""


class StreamError(SharposeError, ValueError):
    """A skeleton stream breaks its schema."""


class OutputError(SharposeError, OSError):
    """An output cannot be written."""


class DeviceError(SharposeError, RuntimeError):
    """The wanted device is not there or does not work."""


@contextlib.contextmanager
def writing(what: object, advice: str, *also: type[Exception]) -> Iterator[None]:
    """Where the system does not let `what` be written in the block: an OutputError, with the reason and the advice.

    A library may say it by an exception of its own, one of `also`. What this package raises on purpose goes through.
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
    """A value of somebody's file for a message: a few of YAML's aliases are gigabytes when they are written out."""
    return _SHORT.repr(value)


def memory_report(error: BaseException) -> str:
    """What a torch.OutOfMemoryError says, without the half page that follows: how much was asked for, and was free. Of
    OpenVINO's what was wrong, without the lines before it of where."""
    lines = [line for line in str(error).splitlines() if not re.fullmatch(r"Exception from \S+:", line)]
    return ". ".join(lines[0].split(". ")[:3]).rstrip(".") if lines else type(error).__name__


def is_short_of_memory(error: BaseException) -> bool:
    """Whether it says that memory of the machine is short, or room for threads, which is told alike: by its class, or
    in words of Python, torch, oneDNN or OpenVINO."""
    if isinstance(error, MemoryError):
        return True
    words = (
        "allocate memory|not enough memory|std::bad_alloc|Resource temporarily unavail|can't (alloc|start new thread)"
    )
    return bool(re.search(rf"{words}|could not create a (primitive|memory object)(?! descr)", str(error)))


def is_short_of_gpu_memory(error: BaseException) -> bool:
    """Whether it says that a GPU's memory is short: a torch.OutOfMemoryError, or what CUDA and its libraries say of
    memory that is not torch's to give."""
    in_words = re.search(r"CUDA error: out of memory|CU[A-Z]+_STATUS_ALLOC_FAILED", str(error))
    return type(error).__name__ == "OutOfMemoryError" or in_words is not None


def gpu_report(error: BaseException) -> str | None:
    """What a GPU says that failed while something ran on it; None for other causes. Where in the program it was noticed
    says little, as the GPU works behind it."""
    found = re.search(r"(?:CUDA|cuDNN|HIP) error: ([^\n]+)", str(error))
    return found and found[1].rstrip(". ")


def library_report(error: ImportError) -> str | None:
    """Which package an import lacks, as after `pip install --no-deps` or in another Python than the one that it was
    installed for, or which library of the system, as slim containers do, and what brings it; None for other causes."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("sharpose_rt"):
        return (
            f"the package {error.name.partition('.')[0]} is missing in {sys.executable}: `pip install sharpose-rt` for "
            "that Python brings what is needed, or call the Python that has it"
        )
    found = re.match(r"(\S+\.so[.\d]*): cannot open shared object file", str(error))
    if found is None:
        return None
    library, advice = found[1], "install the system's package that has it"
    if library.startswith(("libGL.", "libgthread-", "libglib-")):  # OpenCV's
        advice = "`apt-get install libgl1 libglib2.0-0`, or opencv-python-headless in the place of opencv-python"
    return f"{library} of the system is missing: {advice}"


def system_report(error: OSError) -> str | None:
    """Which file or folder the system lets nobody, or not this user, look at, or that a disk is full; None for other
    causes.

    Even `Path.is_file` raises where a folder on the way may not be entered, or a name is too long for one.
    """
    if error.errno == errno.ENOSPC:
        return f"what is printed or written finds no room ({error.strerror}); make some, or write elsewhere"
    hidden = error.errno in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
    if not hidden or not isinstance(error.filename, str | bytes):
        return None
    return not_looked_at(os.fsdecode(error.filename), str(error.strerror))


def not_looked_at(name: str, reason: str) -> str:
    """What is said of a file or folder that the system does not let anybody, or this user, look at."""
    return f"{name} cannot be looked at ({reason}); see its name, and that its folders may be entered"
