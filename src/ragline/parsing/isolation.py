"""What a child of the pool gives up before it reads a hostile document: the network, core dumps, a life after its parent's.

The network goes by a seccomp filter, which needs no root and no namespaces, works inside containers, and passes on to
every program that the child calls. Linux on x86-64 and ARM64; elsewhere `close_network` says that it could not.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from socket import AF_UNIX

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
"""Codes of the filter's machine: load a word of the call, jump if equal, jump if at least, return a verdict."""
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # EPERM

_ARCHITECTURES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Machine → (its number in the audit interface, the number of the call `socket`)."""
_IO_URING_SETUP = 425
_X32_CALLS = 0x40000000
"""Calls from here on are those of a second interface, with other numbers for the same things."""


def close_network() -> bool:
    """No socket but a local one (LibreOffice insists on it) can be made from now on, by this process and all it starts.

    False: this system cannot do that.
    """
    known = _ARCHITECTURES.get(platform.machine())
    if sys.platform != "linux" or known is None or sys.maxsize < 2**32:
        return False
    architecture, socket = known
    steps = [  # (code, jump if true, jump if false, operand); jumps count from the next step
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 0, 7, architecture),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 5, 0, _X32_CALLS),
        (_EQUAL, 4, 0, _IO_URING_SETUP),
        (_EQUAL, 0, 2, socket),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_EQUAL, 0, 1, AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return int(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)) == 0


def die_with_parent() -> None:
    """Linux ends us with the parent even inside native code; elsewhere, and anyway, stdin ends with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def limit_memory(memory_bytes: int | None) -> None:
    """Allow the address space to grow by `memory_bytes` from where it is; None lifts the limit."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = hard
    if memory_bytes is not None and sys.platform == "linux":
        soft = _address_space() + memory_bytes
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - a fraction of Path's cost, once a document
        return int(statm.read().split()[0]) * resource.getpagesize()


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def be_modest(niceness: int) -> None:
    """Yield to others on the same cores, and dump no core: it would hold the document."""
    os.nice(niceness)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
