"""The command `qwen35`: subcommands found in `qwen35_gguf/commands`, each imported only when it is asked for."""

from __future__ import annotations

import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from qwen35_gguf import __version__, address_space, thread_limit
from qwen35_gguf.commands import discover
from qwen35_gguf.commands.errors import USER_ERROR, repeated_interrupts, reports_errors
from qwen35_gguf.commands.first_contact.welcome import welcome
from qwen35_gguf.commands.names.foreign_names import command_advice
from qwen35_gguf.commands.output import open_closed_streams, replace_what_stdout_cannot_encode


class LazyGroup(click.Group):
    """A group over the folder of commands: `--help` answers without importing numpy or the runtime."""

    def main(self, *args: Any, **keywords: Any) -> Any:
        """Run the command line; where stderr takes no message, the exit code of an error is left of it."""
        open_closed_streams()
        try:
            return super().main(*args, **keywords)
        except OSError:
            try:
                click.echo(err=True)  # fails again if it was a message that could not be written
            except OSError:
                sys.exit(USER_ERROR)
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Return the verbs in the order of `--help`."""
        return [subcommand.verb for group in discover.groups() for subcommand in group.subcommands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a subcommand; None if there is none of that name, which click reports."""
        address_space.require_imports()
        thread_limit.require_imports()
        return discover.load(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand; of an unknown one say what is probably meant."""
        name = args[0]
        if not (ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name)):
            advice = command_advice(name, self.list_commands(ctx))
            raise click.UsageError(f"No such command '{name}'{advice}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; errors and Ctrl-C are reported already while it is being imported."""
        return reports_errors(self._invoke)(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        with repeated_interrupts():
            return super().invoke(ctx)

    def make_context(self, *args: Any, **keywords: Any) -> click.Context:
        """Read the command line; Ctrl-C is reported as later on."""
        replace_what_stdout_cannot_encode()
        return reports_errors(super().make_context)(*args, **keywords)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the help by group, without importing the commands as click would."""
        for group in discover.groups():
            with formatter.section(group.title):
                formatter.write_dl([(subcommand.verb, subcommand.help) for subcommand in group.subcommands])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a verb without importing the commands as click would; options as click does."""
        verbs = (subcommand for group in discover.groups() for subcommand in group.subcommands)
        found = [CompletionItem(one.verb, help=one.help) for one in verbs if one.verb.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="qwen35")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Qwen3.5 from a Hugging Face checkpoint to a fast, proven GGUF on a laptop."""
    if ctx.invoked_subcommand is None:
        click.echo(welcome())


if __name__ == "__main__":
    main()
