"""Rows of the state machine in a sorted dictionary, and bodies that remember what was freed: the smallest honest stand-ins."""

from sortedcontainers import SortedDict


class SortedRows:
    """``Rows`` of the machine."""

    def __init__(self):
        self.table = SortedDict()

    def get(self, key):
        return self.table.get(key)

    def put(self, key, value):
        self.table[key] = value

    def delete(self, key):
        self.table.pop(key, None)

    def scan(self, start, stop, limit, cut=0):
        keys = self.table.irange(start, stop, inclusive=(True, False))
        return [(key[cut:], self.table[key]) for _, key in zip(range(limit), keys, strict=False)]


class FreedBodies:
    """``Bodies`` of the machine; freeing twice is an error."""

    def __init__(self):
        self.freed = set()

    def free(self, data_id):
        assert data_id not in self.freed, "freed twice"
        self.freed.add(data_id)
        return 1
