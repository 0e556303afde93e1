"""Machine code into memory that can be run, and from there into a function.

Invariants
* Memory is never writable and executable at once, nor one after the other under the same address: the code is written into a file in
  memory, which is sealed and only then mapped. A service that forbids both (systemd's MemoryDenyWriteExecute) may use it.
* Nothing is loaded on a processor or a system that lacks what it takes; ``instructions`` says so without importing the assembler.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import platform
import sys
from collections.abc import Callable

AVX512, AVX2, SHA = "avx512", "avx2", "sha"
_NEEDED = {  # as Linux names them
    AVX512: frozenset(("avx512f", "avx512bw", "avx512vl")),
    AVX2: frozenset(("avx2",)),
    SHA: frozenset(("sha_ni", "ssse3")),
}
_MFD_EXEC = 0x10  # Linux 6.3: says that it is going to be run; before, every file in memory could be
_SEALS = 0xF  # F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE
Function = Callable[..., None]


def instructions() -> frozenset[str]:
    """Of AVX512, AVX2 and SHA: what Linux says that the processor has and the system saves the registers of."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return frozenset()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("flags"):
                flags = set(line.split())
                return frozenset(name for name, needed in _NEEDED.items() if flags >= needed)
    return frozenset()


def function(code: bytes) -> Function:
    """A kernel that can be called: (state, messages, blocks, constants, times); it lets go of the GIL. Raises OSError where it cannot be.

    The memory stays for as long as the process lives.
    """
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
    return prototype(_mapped(code))


def _mapped(code: bytes) -> int:
    file = _memory_file()
    try:
        if os.write(file, code) != len(code):
            raise OSError("a file in memory took a part of the code alone")
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        system = ctypes.CDLL(None, use_errno=True)
        system.mmap.restype = ctypes.c_void_p
        system.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
        place = system.mmap(None, len(code), mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, file, 0)
        if place is None or place == ctypes.c_void_p(-1).value:
            error = ctypes.get_errno()
            raise OSError(error, f"memory for code: {os.strerror(error)}")
        return int(place)
    finally:
        os.close(file)


def _memory_file() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("titans3-lanes", flags | _MFD_EXEC)
    except OSError:
        return os.memfd_create("titans3-lanes", flags)
