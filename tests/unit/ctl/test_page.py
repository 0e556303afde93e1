"""docs/titanctl.md is what the commands say; each has a sentence, and those that ask a server take --json."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click
import pytest

from titans3.cli.titanctl import LAZY, titanctl
from titans3.ctl.quantity import DURATION, SIZE, shown_seconds, shown_size

ROOT = Path(__file__).parents[3]


def _tool() -> object:
    spec = importlib.util.spec_from_file_location("titanctl_page", ROOT / "tools" / "titanctl.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = _tool()


def test_the_page_is_made_from_the_commands() -> None:
    assert (ROOT / "docs" / "titanctl.md").read_text() == TOOL.made(), "python tools/titanctl.py"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("path", "command"), list(TOOL.commands(titanctl, "titanctl")))  # type: ignore[attr-defined]
def test_every_command_says_what_it_does_and_takes_json(path: str, command: click.Command) -> None:
    assert command.help
    if isinstance(command, click.Group):
        return
    names = {option for parameter in command.params for option in parameter.opts}
    assert "--json" in names or path in ("titanctl completion", "titanctl alias export")


def test_loaded_commands_are_what_the_list_says() -> None:
    for name, *_, text in LAZY:
        command = titanctl.get_command(click.Context(titanctl), name)  # type: ignore[attr-defined]
        assert command is not None
        assert command.name == name
        assert text.endswith(".")


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("10GiB", 10 * 1024**3), ("1.5k", 1500), ("500 MB", 500_000_000), ("7", 7)])
def test_sizes(text: str, size: int) -> None:
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "x", "1x", "-1", "1 GiB GiB"])
def test_bad_sizes_and_durations(text: str) -> None:
    with pytest.raises(click.BadParameter):
        SIZE.convert(text, None, None)
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


def test_shown() -> None:
    assert [shown_size(count) for count in (0, 1023, 1024, 1536, 5 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "5.0 TiB",
    ]
    assert [shown_seconds(count) for count in (5, 65, 3700, 90_000)] == ["5 s", "1 min", "1 h 1 min", "1 day 1 h"]
    assert DURATION.convert("2d", None, None) == 172_800
