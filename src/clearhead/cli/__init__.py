"""The command line."""

from typing import Any

import click

from clearhead.cli.commands import ALL
from clearhead.cli.standard import prepared
from clearhead.errors import ClearheadError


class Wrong(click.ClickException):
    """Something that the user can mend: a sentence on stderr, and exit code 2."""

    exit_code = 2


class Sentences(click.Group):
    """Commands that end with a sentence, never with a traceback, when something is wrong."""

    def main(self, *args: Any, **options: Any) -> Any:
        """As click has it, with standard output and Ctrl-C prepared."""
        with prepared():
            return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; Ctrl-C ends it with exit code 130."""
        try:
            return super().invoke(ctx)
        except ClearheadError as error:
            raise Wrong(str(error)) from error
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            raise click.exceptions.Exit(130) from None


@click.group(cls=Sentences, commands=ALL, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="clearhead", message="clearhead %(version)s")
def main() -> None:
    """Attention you can run fast and see through."""
