"""What users, policies and logs cost: 4 KiB GET and PUT of many users with large policies and both logs on, against root without either.

Two servers run side by side on this machine, each asked in turn for a short while: ``plain`` is asked by its root alone and writes no
access log and no audit trail; ``users`` is asked by USERS users, each with an inline policy of its own of STATEMENTS statements, and
writes both. The policies' statements deny and allow under conditions; the one that lets a request in is the last, and ``--same`` of a
hundred are about the bucket that is asked for. Told are medians of requests a second and of the workers' CPU a request, and their ratios.

Both servers are started anew ``--starts`` times, and every start has ``--rounds`` rounds: how fast a process is depends on where its memory
happens to lie, by more than what is measured here. The medians are of all rounds of all starts.

Run: python bench/users.py            (four minutes; --starts, --rounds and --seconds for more)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import boto3
import uvloop
from botocore.config import Config

from bench.replay import BUCKET, Bench, Result, Signer, measure
from tests.faults.server import Server

KEYS = 20_000
BATCH = 30_000
WARMING_ROUNDS = 3  # until every user was asked for by every worker: the first decision reads its policies
CELLS = ("get4k", "put4k")


def policy(number: int, statements: int, same: int) -> str:
    """A user's policy; ``same`` of a hundred statements are about the bucket."""
    listed: list[dict[str, object]] = []
    for at in range(statements - 1):
        bucket = BUCKET if at % 100 < same else f"team-{at}"
        resource = f"arn:aws:s3:::{bucket}/u{number}-{at}/${{aws:username}}/*"
        if at % 10 == 0:
            listed.append({"Effect": "Deny", "Action": "s3:DeleteObject", "Resource": resource})
        elif at % 10 == 5:
            condition = {"Bool": {"aws:SecureTransport": "true"}}
            listed.append({"Effect": "Allow", "Action": "s3:GetObject", "Resource": resource, "Condition": condition})
        else:
            listed.append({"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": resource})
    listed.append({"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": f"arn:aws:s3:::{BUCKET}/*"})
    return json.dumps({"Version": "2012-10-17", "Statement": listed}, separators=(",", ":"))


def make_users(server: Server, count: int, statements: int, same: int) -> list[tuple[str, str]]:
    """Access keys of new users."""
    access_key, secret = server.credentials()
    iam = boto3.client(
        "iam", endpoint_url=f"http://127.0.0.1:{server.port}", region_name="us-east-1", aws_access_key_id=access_key,
        aws_secret_access_key=secret, config=Config(max_pool_connections=16),
    )  # fmt: skip

    def make(number: int) -> tuple[str, str]:
        name = f"user-{number}"
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=policy(number, statements, same))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"]

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(make, range(count)))


class Side(Bench):
    """One server and who asks it."""

    def __init__(self, server: Server, seconds: float, lanes: int) -> None:
        super().__init__(server, lanes, seconds, KEYS)
        self.root = self.sign
        self.signers = [self.root]
        self.results: dict[str, list[Result]] = {cell: [] for cell in CELLS}

    def requests(self, cell: str) -> list[list[bytes]]:
        """Signed now, by one user after the other."""
        for signer in self.signers:
            signer.renew()
        found = []
        for at in range(BATCH):
            self.sign = self.signers[at % len(self.signers)]
            if cell == "put4k":
                found += self.puts(self.fresh, 1, self.small)
                self.fresh += 1
            else:
                found.append([self.sign.head("GET", self.key(self.rng.randrange(KEYS)))])
        return found

    async def ask(self, cell: str) -> Result:
        """One round."""
        result = await measure(self.server, cell, self.requests(cell), lanes=self.lanes, seconds=self.seconds, once=cell == "put4k")
        if result.statuses.keys() != {200}:
            raise SystemExit(f"{cell}: {result.statuses}")
        return result


async def compare(options: argparse.Namespace, folder: Path) -> None:
    """Both servers, in turn."""
    plain = Server(folder / "plain", workers=options.workers, env={"TITANS3_AUDIT__ENABLED": "false"})
    users = Server(folder / "users", workers=options.workers, env=_logs(options, folder))
    with contextlib.ExitStack() as stack:
        for server in (plain, users):
            server.start()
            stack.callback(server.stop)
        for server in (plain, users):
            await server.wait_ready()
        sides = [Side(server, options.seconds, options.concurrency) for server in (plain, users)]
        for side in sides:
            with contextlib.redirect_stdout(io.StringIO()):
                await side.run([])
        keys = await asyncio.to_thread(make_users, users, options.users, options.statements, options.same)
        if keys:
            sides[1].signers = [Signer(f"127.0.0.1:{users.port}", *pair) for pair in keys[: options.asking or len(keys)]]
        for start in range(options.starts):
            if start:
                for server in (plain, users):
                    await asyncio.to_thread(server.stop)
                    server.start()
                for server in (plain, users):
                    await server.wait_ready()
            for turn in range(-WARMING_ROUNDS, options.rounds):
                for cell in CELLS:
                    for side in sides if (start + turn) % 2 else reversed(sides):
                        result = await side.ask(cell)
                        if turn >= 0:
                            side.results[cell].append(result)
            if options.starts > 1:
                for cell in CELLS:
                    print(f"start {start + 1}: {_told(cell, sides, -options.rounds)}", flush=True)
    print(
        f"{options.users} users of {options.statements} statements, {options.same} % about the bucket; "
        f"{options.starts} starts of {options.rounds} rounds"
    )
    for cell in CELLS:
        print(_told(cell, sides, 0))


def _told(cell: str, sides: list[Side], begin: int) -> str:
    """Medians of the rounds from ``begin`` on."""
    rates = [statistics.median(result.per_second for result in side.results[cell][begin:]) for side in sides]
    costs = [statistics.median(result.server_us for result in side.results[cell][begin:]) for side in sides]
    return (
        f"{cell:6} requests/s {rates[0]:8,.0f} -> {rates[1]:8,.0f} ({rates[1] / rates[0] - 1:+.1%})   "
        f"server CPU us {costs[0]:6.1f} -> {costs[1]:6.1f} ({costs[1] / costs[0] - 1:+.1%})"
    )


def _logs(options: argparse.Namespace, folder: Path) -> dict[str, str]:
    return {"TITANS3_AUDIT__ENABLED": "false"} if options.no_logs else {"TITANS3_ACCESS_LOG__PATH": str(folder / "access")}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1000, help="0: the root asks")
    parser.add_argument("--asking", type=int, default=0, help="how many of them ask, in turn; 0: all")
    parser.add_argument("--no-logs", action="store_true", help="policies alone")
    parser.add_argument("--statements", type=int, default=100)
    parser.add_argument("--same", type=int, default=50, help="of a hundred statements, how many are about the bucket that is asked for")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4, help="of each start, after those that warm it up")
    parser.add_argument("--seconds", type=float, default=0.8, help="of each round, side and operation")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="titans3-users-") as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(compare(options, Path(folder)))


if __name__ == "__main__":
    main()
