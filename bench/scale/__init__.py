"""How TitanS3 scales: workers, objects in a bucket, idle connections, concurrency and size of objects; a chart and a table for each.

``python tools/dev.py bench scale``; what is measured and how: docs/performance.md.

Invariants
* A point is measured on a server that was started for it. Points of one curve differ in one number.
* A point with a refused request gives no figures and is told, a figure that was not taken is shown as none.
* A result is kept under everything that defines it (bench/peers/store.py): interrupted, the same command goes on where it stopped.
"""
