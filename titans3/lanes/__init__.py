"""MD5 and SHA-256 of several bodies side by side, a lane of the processor's vector registers each.

MD5 is a chain: one body's cannot be computed faster than 1.3 ms a mebibyte, but sixteen bodies' take hardly longer than one's. The
machine code for that is written by this package when a process first needs it (``kernels``), with iced-x86 as the assembler. Where the
processor or the system does not allow it, hashlib does the work: the results are the same. See docs/internals/lanes.md.
"""
