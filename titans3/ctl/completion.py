"""``titanctl completion``: what a shell needs to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from titans3.errors import ConfigError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print completion for a shell.

    bash: eval "$(titanctl completion bash)" in ~/.bashrc · zsh: the same in ~/.zshrc · fish: titanctl completion fish | source
    """
    from titans3.cli.titanctl import titanctl

    found = get_completion_class(shell)
    if found is None:
        raise ConfigError(f"there is no completion for {shell}")
    click.echo(found(titanctl, {}, "titanctl", "_TITANCTL_COMPLETE").source())
