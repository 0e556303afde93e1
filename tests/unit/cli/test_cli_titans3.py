"""The command titans3 as it is installed: exit codes, one line an error, options to configuration, config, credentials, tools."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from titans3 import __version__
from titans3.cli.main import flags_of, main, titans3
from titans3.clock import SystemClock
from titans3.config.sources import load
from titans3.ring.placement import ring_hash
from titans3.supervisor.folder import lock_folder, open_folder, read_credentials, root_credentials

BIN = Path(sys.executable).parent


def bare_environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TITANS3_")} | more


def titans3_cli(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "titans3", *arguments], cwd=cwd, env=bare_environment(**environment), capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder of two volumes with generated keys, not in use."""
    path = tmp_path / "data"
    made = open_folder(str(path), SystemClock(), 2)
    root_credentials(made, {})
    made.close()
    return path


def test_version_both_ways() -> None:
    assert titans3_cli("version").stdout == titans3_cli("--version").stdout == f"titans3 {__version__}\n"


def test_help_is_quick_and_loads_no_floor() -> None:
    code = "import sys; from titans3.cli.main import main; main(['run', '-h']); print(sorted(m for m in sys.modules if 'titans3.' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    loaded = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    doors = {"door", "main", "tools", "disk", "meta", "offline", "ring"}
    assert loaded == {"titans3.cli", "titans3.errors", *(f"titans3.cli.{door}" for door in doors)}


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["run", "--wrong"], 2, "no such option '--wrong'"),
        (["rum"], 2, "no such command 'rum'; did you mean 'run'? (see titans3 --help)"),
        (["run", "photos"], 2, "got unexpected extra argument (photos) (see titans3 run --help)"),
        (["run", "--workers", "two"], 2, "'two' is not a valid integer"),
        (["run", "--data"], 2, "option '--data' requires an argument"),
        (["run", "--data", "/a", "/b"], 1, "--data: node.data: 2 paths were given; several disks need erasure coding"),
        (["run", "--data", "/a", "--data", "/b"], 1, "--data: node.data: 2 paths were given"),
        (["run", "--data=/a", "/b", "/c"], 1, "--data: node.data: 3 paths were given"),
        (["run", "--workers", "1000"], 1, "--workers: node.workers = 1000 is too large: 256 is the most"),
        (["run", "--s3", "9000"], 1, "--s3: s3.listen: '9000' is not HOST:PORT, such as 127.0.0.1:9000 or [::]:9000"),
        (["run", "--s3", "::1:9000"], 1, "--s3: s3.listen: an IPv6 address stands in brackets: [::1]:9000"),
        (["run", "--bucket", "Photos"], 1, "--bucket: s3.buckets: 'Photos' is not a bucket name"),
        (["run", "--tls-cert", "x.pem"], 1, "--tls-cert: s3.tls_cert: a certificate and its key are given together"),
        (["run", "--config", "/no/titans3.toml"], 1, "/no/titans3.toml: No such file or directory"),
        (["config", "check", "--config", "/no/titans3.toml"], 1, "/no/titans3.toml: No such file or directory"),
        (["credentials", "reset", "--data", "/no/folder"], 1, "/no/folder holds no TitanS3 data"),
        (["tools", "ring", "locate", "photos/k", "--data", "/no/folder"], 1, "/no/folder holds no TitanS3 data"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(tmp_path: Path, arguments: list[str], code: int, expected: str) -> None:
    done = titans3_cli(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("titans3: ") and done.stderr.count("\n") == 1
    assert expected in done.stderr
    assert os.listdir(tmp_path) == []  # refused before anything was made


def test_environment_errors_name_the_variable(tmp_path: Path) -> None:
    done = titans3_cli("run", cwd=tmp_path, TITANS3_S3__REGIN="x")
    assert (done.returncode, done.stderr) == (1, "titans3: TITANS3_S3__REGIN: no such variable; did you mean TITANS3_S3__REGION?\n")


def test_an_error_cannot_steer_the_terminal(tmp_path: Path) -> None:
    done = titans3_cli("run", "--bucket", "a\x1b[31m\nb", cwd=tmp_path)
    assert "\x1b" not in done.stderr and done.stderr.count("\n") == 1


def test_no_arguments_show_the_help(tmp_path: Path) -> None:
    done = titans3_cli(cwd=tmp_path)
    assert done.returncode == 2 and "Commands:" in done.stderr


@pytest.mark.parametrize("command", ["titans3", "titanctl"])
def test_python_without_assertions_is_refused(command: str) -> None:
    for arguments, environment in ((["-O"], {}), ([], {"PYTHONOPTIMIZE": "1"})):
        done = subprocess.run(
            [sys.executable, *arguments, BIN / command, "--help"], env=bare_environment(**environment), capture_output=True, text=True,
            timeout=30, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"{command}: TitanS3 does not run under `python -O` or PYTHONOPTIMIZE: its assertions guard your data\n"


@pytest.mark.parametrize(("command", "module"), [("titans3", "main"), ("titanctl", "titanctl")])
def test_other_systems_are_refused(command: str, module: str) -> None:
    code = f"import sys; sys.platform = 'darwin'; from titans3.cli.{module} import main; sys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, f"{command}: TitanS3 runs on Linux; this is darwin\n")


def test_a_closed_pipe_is_quiet() -> None:
    line = f"{BIN / 'titans3'} config show | head -c 1"
    done = subprocess.run(["bash", "-c", line], env=bare_environment(), capture_output=True, text=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == ("[", "")


def test_options_become_configuration() -> None:
    options = {
        "data": ("/a",), "s3": ("[::]:9000", "127.0.0.1:1"), "workers": 2, "bucket": ("photos", "docs"), "tls_cert": None, "tls_key": None,
    }  # fmt: skip
    flags = flags_of(options)
    assert flags == {"node.data": ("/a",), "s3.listen": ("[::]:9000", "127.0.0.1:1"), "node.workers": 2, "s3.buckets": ("photos", "docs")}
    assert flags_of({"data": (), "s3": (), "workers": None, "bucket": (), "tls_cert": None, "tls_key": None}) == {}
    assert flags_of({"workers": 0}) == {"node.workers": 0}  # 0 says something


@pytest.mark.parametrize(
    ("arguments", "data", "buckets"),
    [
        (["--bucket", "abc", "def", "--data", "/x"], ("/x",), ("abc", "def")),
        (["--bucket=abc", "def", "--data=/x", "--bucket", "ghi"], ("/x",), ("abc", "def", "ghi")),
        (["--data", "/x", "--workers", "2", "--bucket", "abc"], ("/x",), ("abc",)),
    ],
)
def test_several_values_after_one_option(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], data: tuple[str, ...], buckets: tuple[str, ...]
) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(titans3.commands["run"], "callback", lambda **options: seen.update(options) or 7)
    assert main(["run", *arguments]) == 7  # a command's code is the exit code
    assert (seen["data"], seen["bucket"]) == (data, buckets)


def test_config_check_says_good_or_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "titans3.toml"
    file.write_text('[node]\nworkers = 2\n[log]\nlevel = "warn"\n')
    done = titans3_cli("config", "check", "--config", str(file))
    assert done.returncode == 1
    assert done.stderr == f"titans3: {file}: log.level = 'warn' is not one of debug, info, warning, error; did you mean warning?\n"
    file.write_text('[node]\nworkers = 2\n[log]\nlevel = "warning"\n')
    done = titans3_cli("config", "check", "--config", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("good: 2 of ")


def test_config_show_is_a_file_that_gives_the_same_configuration(tmp_path: Path) -> None:
    file = tmp_path / "titans3.toml"
    file.write_text('[node]\ndata = ["/srv/\\"t\\\\3\\""]\n[engine]\nreserve_bytes = "1GiB"\n[s3]\nlisten = ["[::1]:9000"]\n')
    first = titans3_cli("config", "show", "--config", str(file), TITANS3_S3__BUCKETS="photos,docs")
    assert first.returncode == 0
    shown = tmp_path / "shown.toml"
    shown.write_text(first.stdout)
    config, _ = load(str(shown), environment={})
    assert config == load(str(file), environment={"TITANS3_S3__BUCKETS": "photos,docs"})[0]
    assert config.s3.buckets == ("photos", "docs") and config.engine.reserve_bytes == 1 << 30
    assert 'buckets = ["photos", "docs"]  # TITANS3_S3__BUCKETS' in first.stdout
    again = titans3_cli("config", "show", "--config", str(shown)).stdout
    assert [line.partition("  # ")[0] for line in again.splitlines()] == [line.partition("  # ")[0] for line in first.stdout.splitlines()]


def test_credentials_reset_makes_new_keys_for_a_server_that_is_stopped(folder: Path) -> None:
    before = read_credentials(str(folder))
    done = titans3_cli("credentials", "reset", "--data", str(folder))
    after = read_credentials(str(folder))
    assert done.returncode == 0
    assert after.access_key != before.access_key and after.secret_key != before.secret_key
    assert f"access key  {after.access_key}\nsecret key  {after.secret_key}\n" in done.stdout
    assert (folder / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert done.stderr == ""


def test_credentials_reset_takes_the_folder_from_the_environment_and_warns_of_keys_there(folder: Path) -> None:
    done = titans3_cli("credentials", "reset", TITANS3_DATA=str(folder), TITANS3_ROOT_ACCESS_KEY="someone")
    assert done.returncode == 0 and read_credentials(str(folder)).access_key in done.stdout
    assert "a server that sees them uses those" in done.stderr


def test_credentials_reset_needs_the_server_to_be_stopped(folder: Path) -> None:
    before = read_credentials(str(folder))
    lock = lock_folder(str(folder))
    done = titans3_cli("credentials", "reset", "--data", str(folder))
    os.close(lock)
    assert done.returncode == 1 and f"{folder} is in use by another server (process {os.getpid()})" in done.stderr
    assert read_credentials(str(folder)) == before


def test_ring_shows_the_placement_of_a_key_by_id(folder: Path) -> None:
    done = titans3_cli("tools", "ring", "locate", "photos/a/b ü", "--id", "7", "--data", str(folder), "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    group = ring_hash(7, "a/b ü".encode(), 16)
    assert (told["bucket"], told["key"], told["id"], told["shards"]) == ("photos", "a/b ü", 7, 16)
    assert (told["group"], told["volume"], told["worker"]) == (group, group % 2, 0)
    assert told["path"] == str(folder / f"volumes/{group % 2:04d}")


def test_ring_shows_all_shards_of_a_bucket(folder: Path) -> None:
    line = f"tools ring show photos --id 7 --shards 4 --workers 2 --data {folder}"
    result = CliRunner().invoke(titans3, line.split())
    lines = result.output.splitlines()
    assert lines[0] == "bucket photos, id 7, 4 shards"
    rows = [line.split() for line in lines[2:]]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert all(row[2] == row[3] == str(int(row[1]) % 2) for row in rows)


def test_ring_says_when_a_name_is_not_known(folder: Path) -> None:
    for name in ("photos", "x" * 600, "ü"):
        done = titans3_cli("tools", "ring", "locate", f"{name}/k", "--data", str(folder))
        assert done.returncode == 1 and f"knows no bucket {name!r}" in done.stderr
