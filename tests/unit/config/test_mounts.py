"""The file system of a path, from texts as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from titans3.clock import SystemClock
from titans3.config.mounts import NETWORK_FILE_SYSTEMS, file_system, mounts, refuse_network
from titans3.errors import ConfigError
from titans3.supervisor import folder

TEXT = r"""22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
40 22 0:35 / /srv/nfs rw,relatime shared:20 master:1 - nfs4 host:/export rw,vers=4.2
41 22 8:1 / /srv/nfs/local rw - xfs /dev/sda1 rw
42 22 0:36 / /mnt/with\040space\011and\134slash rw - cifs //host/share rw
43 22 0:37 / /mnt/ümlaut rw - fuse.sshfs host: rw
44 22 8:2 / /over rw - ext4 /dev/sdb1 rw
45 44 0:38 / /over rw - ceph mon:/ rw
46 22 0:39 / /memory rw - tmpfs tmpfs rw
47 22 0:40 /sub /srv/nfsx rw - btrfs /dev/sdc rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"), ("/home/x", "ext4"), ("/srv", "ext4"), ("/srv/nfs", "nfs4"), ("/srv/nfs/a/b", "nfs4"),
        ("/srv/nfs/local/data", "xfs"),
        ("/srv/nfsx", "btrfs"), ("/mnt/with space\tand\\slash/data", "cifs"), ("/mnt/ümlaut/data", "fuse.sshfs"), ("/over/data", "ceph"),
        ("/memory", "tmpfs"),
    ],
)  # fmt: skip
def test_the_deepest_and_latest_mount_counts(path: str, kind: str) -> None:
    assert file_system(path, TEXT) == kind
    if kind in NETWORK_FILE_SYSTEMS:
        with pytest.raises(ConfigError, match=f"network file system \\({kind}\\)"):
            refuse_network(path, TEXT)
    else:
        refuse_network(path, TEXT)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/srv/nfs/data")
    assert file_system(str(tmp_path / "link"), TEXT) == "nfs4"


def test_without_mounts_nothing_is_told_and_nothing_refused() -> None:
    assert file_system("/a", "") == ""
    refuse_network("/a", "")


def test_this_machine_tells(tmp_path: Path) -> None:
    assert file_system(str(tmp_path), mounts())
    assert file_system("/proc/self", mounts()) == "proc"


def test_a_data_folder_on_a_network_is_refused_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"99 1 0:99 / {os.path.realpath(tmp_path)} rw - nfs host:/ rw\n"
    monkeypatch.setattr(folder, "mounts", lambda: TEXT + line)
    with pytest.raises(ConfigError, match="network file system \\(nfs\\)"):
        folder.open_folder(str(tmp_path / "data"), SystemClock(), 2)
    assert not (tmp_path / "data").exists()
