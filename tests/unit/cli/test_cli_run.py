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
ROOT = Path(__file__).resolve().parents[3]
READY_SECONDS = 40.0
# The README's own example, then what it left there: the presigned URL it printed is asked for without keys.
SCRIPT = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0] + """
import urllib.request
url = s3.generate_presigned_url("get_object", Params={"Bucket": "photos", "Key": "README.md"})
same = urllib.request.urlopen(url).read() == open("README.md", "rb").read()
print(sorted(bucket["Name"] for bucket in s3.list_buckets()["Buckets"]), same)
"""


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
        line = f'eval "$({shlex.join(map(str, env))})" && {shlex.quote(sys.executable)} -c {shlex.quote(SCRIPT)}'
        deadline = time.monotonic() + READY_SECONDS
        while True:  # buckets of --bucket are made right after the server is ready
            done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=60, check=False)
            if ("NoSuchBucket" not in done.stderr and "'docs'" in done.stdout) or time.monotonic() > deadline:
                break
        assert done.stdout.startswith("http://127.0.0.1:"), done.stderr
        assert done.stdout.endswith("\n['docs', 'photos'] True\n"), done.stdout + done.stderr
        again = [BIN / "titans3", "run", *arguments]
        twice = subprocess.run(again, capture_output=True, text=True, env=environment, timeout=60, check=False)
        assert twice.returncode == 1 and "is in use by another server" in twice.stderr and "Traceback" not in twice.stderr
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    assert code == 0, (tmp_path / "log").read_text()
    after = subprocess.run(env, capture_output=True, text=True, env=environment, check=False)
    assert after.stderr == f"titanctl: no server runs on {data}; start one: titans3 run --data '{data}'\n"
    ring = [BIN / "titans3", "tools", "ring", "locate", "photos/README.md", "--data", data]
    placed = subprocess.run(ring, capture_output=True, text=True, env=environment, timeout=30, check=False)
    assert placed.stdout.startswith("bucket photos, id "), placed.stderr
