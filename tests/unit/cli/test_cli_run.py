"""``titans3 run`` from option to served bucket, ``titanctl env`` beside it, and a stop that leaves nothing behind."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
READY_SECONDS = 40.0


def test_run_serves_what_env_points_at_and_stops_cleanly(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TITANS3_", "AWS_"))}
    data = tmp_path / "data folder"
    arguments = ["--data", data, "--s3", "127.0.0.1:0", "--workers", "1", "--bucket", "photos", "docs"]
    env = [BIN / "titanctl", "env", "--data", data]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([BIN / "titans3", "run", *arguments], env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while subprocess.run(env, capture_output=True, env=environment, check=False).returncode:
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        script = (
            "import boto3, time; s3 = boto3.client('s3'); s3.put_object(Bucket='photos', Key='a/b', Body=b'bytes'); "
            "print(sorted(b['Name'] for b in s3.list_buckets()['Buckets']), s3.get_object(Bucket='photos', Key='a/b')['Body'].read())"
        )
        line = f'eval "$({shlex.join(map(str, env))})" && {shlex.quote(sys.executable)} -c {shlex.quote(script)}'
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=environment, timeout=60, check=False)
        assert done.stdout == "['docs', 'photos'] b'bytes'\n", done.stderr
        again = [BIN / "titans3", "run", *arguments]
        twice = subprocess.run(again, capture_output=True, text=True, env=environment, timeout=60, check=False)
        assert twice.returncode == 1 and "is in use by another server" in twice.stderr and "Traceback" not in twice.stderr
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    assert code == 0, (tmp_path / "log").read_text()
    after = subprocess.run(env, capture_output=True, text=True, env=environment, check=False)
    assert after.stderr == f"titanctl: no server runs on {data}; start one: titans3 run --data '{data}'\n"
    ring = [BIN / "titans3", "tools", "ring", "photos/a/b", "--data", data]
    placed = subprocess.run(ring, capture_output=True, text=True, env=environment, timeout=30, check=False)
    assert placed.stdout.startswith("bucket photos, id "), placed.stderr
