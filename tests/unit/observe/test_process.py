"""What the system says of this process is what it is."""

from __future__ import annotations

import gc
import os
import time

import psutil

from titans3.observe.process import Collections, read_machine, read_process


def test_numbers_of_this_process_are_those_of_psutil() -> None:
    found, known = read_process(), psutil.Process()
    assert abs(found.resident - known.memory_info().rss) < 16 << 20
    assert abs(found.descriptors - known.num_fds()) <= 1
    assert found.threads == known.num_threads()
    assert abs(found.cpu_user - known.cpu_times().user) < 1.0
    assert abs(time.time() - read_machine().uptime + found.started - known.create_time()) < 2.0
    assert found.descriptors_max >= found.descriptors
    with open(os.devnull, "rb"):
        assert read_process().descriptors == found.descriptors + 1


def test_numbers_of_this_machine_are_those_of_psutil() -> None:
    found = read_machine()
    assert found.memory == psutil.virtual_memory().total
    assert 0 < found.available <= found.memory and found.cpus == len(os.sched_getaffinity(0))


def test_pauses_of_the_collector_are_added_up_while_it_is_watched() -> None:
    watched = Collections()
    watched.start()
    gc.collect()
    watched.stop()
    seconds = watched.seconds
    gc.collect()
    assert 0.0 < seconds == watched.seconds
