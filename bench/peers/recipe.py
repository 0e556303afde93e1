"""How a server is started to be measured: a command with placeholders, what it needs around it, and what its answers are worth.

TitanS3, MinIO and versitygw are known; any other is a TOML file with the same keys (``--recipe``), which must set its server to sync as
a durable one does, or say that it does not (``syncs = false``).

Placeholders in command, environment and ready: {program} {data} {port} {access_key} {secret_key} {workers}, and {tree}, the work tree of
a TitanS3.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]


class Recipe(msgspec.Struct, forbid_unknown_fields=True):
    """``credentials``: a JSON file in the data folder, for a server that makes its own keys. ``metrics``: where it shows metrics, of which
    ``errors`` matches the samples that count answers of 5xx, and ``watch`` those whose growth is kept; they tell what happened up to
    ``settles`` seconds before. ``folders``: made in the data folder
    before. ``go``: the module that ``go install`` makes the program from. ``shown``: its version as told; ``state``, if there
    is one, tells it from others instead.
    """

    name: str
    command: list[str]
    durability: str
    syncs: bool
    title: str = ""
    program: str = ""
    version: list[str] = []
    env: dict[str, str] = {}
    folders: list[str] = []
    ready: str = "/"
    credentials: str = ""
    metrics: str = ""
    errors: str = ""
    watch: str = ""
    settles: float = 1.5
    go: str = ""
    shown: str = ""
    state: str = ""
    tree: str = ""

    def describe(self) -> dict[str, object]:
        """All that may change what it does: part of a result's key."""
        return {"name": self.name, "command": self.command, "env": self.env, "version": self.state or self.shown}


MINIO = Recipe(
    name="minio", title="MinIO", program="minio", go="github.com/minio/minio@latest", version=["--version"],
    command=["{program}", "server", "--quiet", "--address", "127.0.0.1:{port}", "{data}"],
    env={
        "MINIO_ROOT_USER": "{access_key}", "MINIO_ROOT_PASSWORD": "{secret_key}", "MINIO_BROWSER": "off", "MINIO_UPDATE": "off",
        "MINIO_PROMETHEUS_AUTH_TYPE": "public",
    },
    ready="/minio/health/ready", durability="syncs data and xl.meta, not folders (its default)", syncs=True,
    metrics="/minio/v2/metrics/node", errors=r"minio_s3_requests_5xx_errors_total\b", watch=r"minio_s3_requests_(5xx_errors_)?total\b",
)  # fmt: skip
VERSITYGW = Recipe(
    name="versitygw", title="versitygw", program="versitygw", go="github.com/versity/versitygw/cmd/versitygw@latest", version=["--version"],
    command=[
        "{program}", "--port", "127.0.0.1:{port}", "--access", "{access_key}", "--secret", "{secret_key}", "--quiet", "--health", "/health",
        "posix", "--versioning-dir", "{data}/versions", "{data}/objects",
    ],
    folders=["versions", "objects"], ready="/health", durability="never syncs", syncs=False,
)  # fmt: skip
KNOWN = {recipe.name: recipe for recipe in (MINIO, VERSITYGW)}
_PYTHON = (
    "import json, platform, sys, sysconfig; print(json.dumps([platform.python_version(), "
    "'--enable-optimizations' in (sysconfig.get_config_var('CONFIG_ARGS') or ''), sys.base_prefix]))"
)


def titans3(python: str, tree: Path = ROOT, name: str = "titans3", title: str = "TitanS3", workers: int = 0) -> Recipe:
    """TitanS3 of a work tree, under an interpreter that has what it needs installed. ``workers``: as many, whatever the setting is."""
    answer = _said([python, "-c", _PYTHON])
    version, is_optimised, prefix = json.loads(answer)
    # Debian's build is optimised too, but what it tells of its configuration does not say so.
    build = "an optimised build (PGO)" if is_optimised else "the distribution's build" if prefix == "/usr" else "built without PGO"
    revision = _said(["git", "describe", "--always", "--dirty"], tree) if (tree / ".git").exists() else "no git revision"
    state = f"{tree_state(tree)} {version}, {build}"
    return Recipe(
        name=name, title=title, program=python,
        command=[
            "{program}", "-P", "-m", "titans3.cli.main", "run", "--data", "{data}", "--s3", "127.0.0.1:{port}", "--workers",
            str(workers) if workers else "{workers}",
        ],
        env={"PYTHONPATH": "{tree}", "TITANS3_METRICS__PUBLIC": "true"}, ready="/health/ready", credentials="credentials.json",
        durability="syncs all before the answer", syncs=True, metrics="/_titans3/metrics", errors=r"titans3_server_errors_total\b",
        watch=r"titans3_loop_lag_seconds_bucket\b|titans3_requests_total\b", settles=0.2,
        shown=f"{revision}, Python {version}, {build}", state=state, tree=str(tree),
    )  # fmt: skip


def tree_state(tree: Path) -> str:
    """A hash of the server's code as it lies there, so that changes of documents or tests do not count."""
    digest = hashlib.sha256()
    for path in sorted((tree / "titans3").rglob("*.py")):
        digest.update(str(path.relative_to(tree)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def found(recipe: Recipe, paths: dict[str, str], cache: Path | None) -> Recipe | None:
    """With its program's path and version; ``None`` if there is no such program. The places: as told, the cache folder, PATH, Go's own."""
    places = [paths.get(recipe.name, ""), str(cache / recipe.program) if cache else "", recipe.program]
    places += [str(folder / recipe.program) for folder in _go_folders()]
    for place in places:
        path = shutil.which(place) if place else None
        if path is not None:
            return msgspec.structs.replace(recipe, program=path, shown=recipe.shown or _version(path, recipe))
        if place and place == paths.get(recipe.name):
            raise SystemExit(f"{recipe.name}: there is no program {place}")
    return None


def install(recipe: Recipe, cache: Path) -> None:
    """``go install`` into a folder outside the tree."""
    if not recipe.go:
        raise SystemExit(f"{recipe.name} is in no package manager that is known here; name its program with --program {recipe.name}=PATH")
    cache = cache.resolve()
    if cache.is_relative_to(ROOT):
        raise SystemExit(f"{cache} is in this tree; programs of others stay out of it")
    if shutil.which("go") is None:
        raise SystemExit(f"{recipe.name} is installed by `go install`, and there is no go on PATH")
    cache.mkdir(parents=True, exist_ok=True)
    print(f"go install {recipe.go} (some minutes)", flush=True)
    if subprocess.run(["go", "install", recipe.go], env={**os.environ, "GOBIN": str(cache)}, check=False).returncode:
        raise SystemExit(f"go install {recipe.go} failed")


def read(path: Path) -> Recipe:
    """A recipe from a TOML file."""
    try:
        recipe = msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except (msgspec.DecodeError, OSError) as error:
        raise SystemExit(f"{path}: {error}") from None
    if not recipe.program:
        raise SystemExit(f"{path}: program is missing: a name on PATH or a path")
    return recipe


def _go_folders() -> list[Path]:
    go = shutil.which("go")
    if go is None:
        return []
    shown = subprocess.run([go, "env", "GOBIN", "GOPATH"], capture_output=True, text=True, check=False).stdout.splitlines()
    return [Path(shown[0])] if shown and shown[0] else [Path(part) / "bin" for part in shown[1:] if part]


def _version(path: str, recipe: Recipe) -> str:
    """As it tells it; of what `go install` made, the module's version, which the program does not know."""
    lines = _said([path, *recipe.version]).splitlines() if recipe.version else []
    go = shutil.which("go")
    if recipe.go and go is not None:
        built = subprocess.run([go, "version", "-m", path], capture_output=True, text=True, check=False).stdout
        for line in built.splitlines():
            if line.startswith("\tmod\t"):
                return " ".join(line.split()[1:3])
    return " ".join(line.strip() for line in lines[:2])


def _said(command: list[str], folder: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr.strip()}")
    return done.stdout.strip() or done.stderr.strip()
