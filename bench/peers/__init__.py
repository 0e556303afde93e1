"""TitanS3 beside its peers: the same requests, disk, processors and durability, in turn, and a table that anybody can repeat.

``python tools/dev.py bench peers``; how and why: docs/performance.md.

Invariants
* Every server starts on an empty folder of the same disk, with the same processors, one at a time: nothing else of the benchmark runs
  beside it but the client.
* A round with errors gives no figures and is told, a figure that was not taken is shown as none.
* A result is kept under everything that defines it: what was measured before is not measured again, what changed is.
"""
