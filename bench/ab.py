"""This tree beside a revision of it: the same requests to both servers in turn, under one interpreter, and the ratios of their medians.

``python tools/dev.py bench ab REVISION`` (as of git: a commit, a branch, HEAD~3). The revision is checked out to a folder of its own
that is removed at the end; the dependencies are this interpreter's for both. The client is the replayer of pre-signed requests, which
costs least of the shared processors; with --with-warp it is warp. Rows, rounds and the rest are as of ``bench peers``.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.peers import recipe
from bench.peers.__main__ import chosen, finish, parser, setting
from bench.peers.report import spoken
from bench.peers.rounds import Contest, Rounds
from bench.peers.store import Store

RESULTS = recipe.ROOT / "bench/results/ab"


@contextlib.contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """A folder with that revision."""
    with tempfile.TemporaryDirectory(prefix="titans3-ab-") as name:
        folder = Path(name) / "before"
        command = ["git", "worktree", "add", "--detach", "--quiet", str(folder), revision]
        made = subprocess.run(command, cwd=recipe.ROOT, capture_output=True, text=True, check=False)
        if made.returncode:
            raise SystemExit(f"git cannot check out {revision}: {made.stderr.strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(folder)], cwd=recipe.ROOT, check=True)


def main(arguments: list[str]) -> int:
    """Exit code 1 if a cell has no sound result."""
    made = parser(__doc__, RESULTS)
    made.add_argument("revision")
    made.add_argument("--with-warp", action="store_true", help="warp asks instead of the replayer")
    options = made.parse_args(arguments)
    options.replay = options.replay or not options.with_warp
    shared = setting(options)
    if options.with_warp and not shared.warp:
        made.error("there is no warp on PATH (nor --warp PATH)")
    asked = chosen(options, arguments, shared.warp)
    shared = msgspec.structs.replace(shared, rounds=options.rounds)
    with worktree(options.revision) as folder:
        before = recipe.titans3(options.python, folder, "before", f"TitanS3 {options.revision}")
        now = recipe.titans3(options.python)
        contest = Contest(asked, [before, now], shared.warp)
        rounds = Rounds(shared, Store(options.out))
        print(spoken(asked, contest.recipes, shared.rounds), flush=True)
        rounds.play([contest])
        return finish(rounds, contest, [], now.name, options, "python tools/dev.py bench ab " + shlex.join(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
