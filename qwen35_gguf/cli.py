"""The command `qwen35`: a table of subcommands, each imported only when it is asked for."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import click

from qwen35_gguf import __version__
from qwen35_gguf.command_errors import reports_errors


class Subcommand(NamedTuple):
    """Where a subcommand lives (`module:attribute`), and its line in `qwen35 --help`."""

    target: str
    help: str


SUBCOMMANDS = {
    "chat": Subcommand("qwen35_gguf.runtime.chat:command", "Talk with a GGUF file."),
    "checksum": Subcommand("qwen35_gguf.release.checksum_command:command", "Write or verify a folder's SHA256SUMS."),
    "convert": Subcommand("qwen35_gguf.convert.command:command", "Convert a checkpoint to GGUF."),
    "diff": Subcommand("qwen35_gguf.release.diff_command:command", "Say in what two GGUF files differ."),
    "doctor": Subcommand("qwen35_gguf.runtime.doctor:command", "Print what this installation can do."),
    "evaluate": Subcommand("qwen35_gguf.runtime.evaluate_command:command", "Measure what quantization costs."),
    "imatrix": Subcommand("qwen35_gguf.runtime.imatrix_command:command", "Measure which weights matter."),
    "inspect": Subcommand("qwen35_gguf.release.inspect_command:command", "Show what is in a GGUF file, and its bits."),
    "lint": Subcommand("qwen35_gguf.release.lint_command:command", "Find what would break a GGUF file for its users."),
    "merge": Subcommand("qwen35_gguf.release.merge_command:command", "Join the shards of a GGUF file."),
    "metadata": Subcommand("qwen35_gguf.release.metadata_command:command", "Set or remove metadata of a GGUF file."),
    "package": Subcommand("qwen35_gguf.release.package_command:command", "Make a release folder of several quants."),
    "plan": Subcommand("qwen35_gguf.runtime.plan_command:command", "Show what a GGUF file needs and where it goes."),
    "publish": Subcommand("qwen35_gguf.release.publish_command:command", "Upload a release folder to the Hub."),
    "recipe": Subcommand("qwen35_gguf.runtime.recipe_command:command", "Find the types that fit a size best."),
    "run": Subcommand("qwen35_gguf.runtime.run:command", "Answer a prompt with a GGUF file."),
    "sensitivity": Subcommand("qwen35_gguf.runtime.sensitivity_command:command", "Measure what each tensor costs."),
    "split": Subcommand("qwen35_gguf.release.split_command:command", "Cut a GGUF file into shards."),
    "tune": Subcommand("qwen35_gguf.runtime.tune_command:command", "Find the fastest settings here, and keep them."),
    "verify": Subcommand("qwen35_gguf.convert.verify:command", "Compare a GGUF file with its checkpoint."),
    "verify-release": Subcommand(
        "qwen35_gguf.release.verify_release_command:command", "Make a release again, and compare."
    ),
    "worker": Subcommand("qwen35_gguf.runtime.worker_command:command", "Lend this machine's devices to another."),
}


class LazyGroup(click.Group):
    """A group over `SUBCOMMANDS`: `--help` answers at once, without importing numpy or the runtime."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Names, in the order of the table."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a subcommand; None if there is none of that name, which click reports."""
        if cmd_name not in SUBCOMMANDS:
            return None
        module, _, attribute = SUBCOMMANDS[cmd_name].target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; errors and Ctrl-C are reported already while it is being imported."""
        return reports_errors(super().invoke)(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the help from the table, since click would import every command for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, subcommand.help) for name, subcommand in SUBCOMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qwen35")
def main() -> None:
    """Qwen3.5 from a Hugging Face checkpoint to a fast, proven GGUF on a laptop."""


if __name__ == "__main__":
    main()
