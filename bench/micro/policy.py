"""What a decision costs: the policies of a user and a bucket, compiled, against one request.

Run: python bench/micro/policy.py. Microseconds of one core for a decision; "explained" is what ``titanctl policy simulate`` does.
Statements name different buckets and prefixes, as a company's policies do; the one that allows is the last. "one bucket": different
prefixes of the bucket that is asked for.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from titans3.iam.decision import Identity, Verdict, decide
from titans3.iam.document import Kind, read_policy
from titans3.iam.explain import Imagined, explain
from titans3.iam.policy import Policy
from titans3.iam.principal import Principal

ROUNDS = 20_000
SIZES = (1, 10, 100)
WHO = Principal("000000000000", "0" * 64, "arn:aws:iam::000000000000:user/alice")
KEYS: dict[str, tuple[str, ...]] = {"aws:sourceip": ("10.1.2.3",), "aws:username": ("alice",), "aws:securetransport": ("true",)}


def policy(statements: int, *, conditions: bool, bucket: str = "team-{}") -> str:
    """That many statements, all about GetObject."""
    listed = []
    for number in range(statements - 1):
        item = {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject"],
            "Resource": f"arn:aws:s3:::{bucket.format(number)}/data-{number}/${{aws:username}}/*",
        }
        if conditions:
            item["Condition"] = {"IpAddress": {"aws:SourceIp": f"10.{number}.0.0/16"}, "Bool": {"aws:SecureTransport": "true"}}  # type: ignore[assignment]
        listed.append(item)
    listed.append({"Effect": "Allow", "Action": "s3:Get*", "Resource": "arn:aws:s3:::photos/*"})
    return json.dumps({"Version": "2012-10-17", "Statement": listed})


def measure(name: str, text: str) -> None:
    """One line."""
    identity = Identity(WHO, (Policy(read_policy(text, Kind.IDENTITY)),))
    ask = Imagined("s3:GetObject", "arn:aws:s3:::photos/2026/summer/image.jpg", KEYS)
    assert decide(identity, ask, WHO.account) is Verdict.ALLOWED
    best = min(_seconds(lambda: decide(identity, ask, WHO.account), ROUNDS) for _ in range(5))
    told = min(_seconds(lambda: explain(identity.policies[0], ask, WHO), ROUNDS // 100) for _ in range(3))
    compiled = _seconds(lambda: Policy(read_policy(text, Kind.IDENTITY)), 20)
    print(f"{name:44} {best * 1e6:8.2f} us   explained {told * 1e6:9.1f} us   compiled {compiled * 1e3:7.2f} ms")


def _seconds(work: object, rounds: int) -> float:
    assert callable(work)
    begin = time.perf_counter()
    for _ in range(rounds):
        work()
    return (time.perf_counter() - begin) / rounds


def main() -> None:
    """All sizes."""
    for statements in SIZES:
        for conditions in (False, True):
            name = f"{statements} statements{' with conditions' if conditions else ''}"
            measure(name, policy(statements, conditions=conditions))
            measure(f"{name}, one bucket", policy(statements, conditions=conditions, bucket="photos"))


if __name__ == "__main__":
    main()
