"""The view equals a sorted dictionary, whatever lies in which layer, with keys of any length."""

import random

import pytest

from tests.scale import scaled
from titans3.meta.environment import Checkpoint, Environment, Position
from titans3.meta.keys import object_key, successor
from titans3.meta.view import View


@pytest.mark.parametrize("slice_bytes", [None, 20, 40])
@pytest.mark.parametrize("seed", range(scaled(3, 60)))
def test_view_equals_model(tmp_path, slice_bytes, seed):
    rng = random.Random(seed)
    env = Environment(str(tmp_path), cluster=b"c" * 16, volume=b"v" * 16, map_bytes=1 << 32)
    if slice_bytes:
        env.layers.slice_bytes, env.layers.whole = slice_bytes, 13 + slice_bytes
    view = View(env)
    size = env.layers.slice_bytes
    model: dict[bytes, bytes] = {}
    stems = [b"a" * (size - 1), b"a" * size, b"a" * (size + 1), b"b" * 2 * size, b"c" * (2 * size + 1), b"", b"\x01", b"zz"]
    for step in range(2500):
        tail = bytes(rng.choice(b"\x00\x01ab\xff") for _ in range(rng.randrange(4)))
        key = object_key(rng.randrange(2), 7, rng.choice(stems) + tail)
        draw = rng.random()
        if draw < 0.4:
            view.put(key, b"%d" % step)
            model[key] = b"%d" % step
        elif draw < 0.6:
            view.delete(key)
            model.pop(key, None)
        elif draw < 0.75:
            assert view.get(key) == model.get(key)
        elif draw < 0.95:
            limit, cut = rng.choice((1, 2, 5, 8, 9, 30, 1000)), rng.choice((0, 13))
            stop = rng.choice((successor(key[:13]), successor(key)))
            expected = sorted(i for i in model.items() if key <= i[0] < stop)[:limit]
            assert view.scan(key, stop, limit, cut) == [(name[cut:], value) for name, value in expected]
        elif view.frozen is None:
            view.freeze()
        else:
            env.commit(view.frozen, Checkpoint(Position(1, 0, 0, 1), {}))
            view.thaw()
    view.close()
    env.close()
