"""The sandbox in which chat templates are compiled, with what transformers gives them.

Templates come from untrusted files: they can read their variables and nothing else. Source: transformers
chat_template_utils.py (`_cached_compile_jinja_template`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qwen35_gguf.errors import MissingDependencyError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment


def jinja_environment() -> ImmutableSandboxedEnvironment:
    """Make an environment without filters and functions of its own.

    Raises:
        MissingDependencyError: jinja2 is not installed.

    """
    try:
        import jinja2.ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        message = "jinja2 is needed for chat templates; install it with pip install 'qwen35-gguf[runtime]'"
        raise MissingDependencyError(message) from None

    class Generation(jinja2.ext.Extension):
        """The block `{% generation %}`, which marks the assistant's text for training and changes nothing here."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
