"""etcpipe completion: scripts that make a shell's tab key know the verbs and options."""

import click
from click.shell_completion import get_completion_class

from etcpipe.cli.common import Verb
from etcpipe.errors import UnsupportedError

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Verb, configured=False)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      etcpipe completion bash > /etc/bash_completion.d/etcpipe
      etcpipe completion fish > ~/.config/fish/completions/etcpipe.fish
    """
    made = get_completion_class(shell)
    if made is None:
        raise UnsupportedError(f"this release of click completes no {shell}: upgrade click")
    script = made(ctx.find_root().command, {}, "etcpipe", "_ETCPIPE_COMPLETE")
    click.echo(script.source_template % script.source_vars())
