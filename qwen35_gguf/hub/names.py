"""How a model on the Hub is named: `USER/NAME`, and for GGUF files `hf:USER/NAME@REVISION:QUANT`; ends are optional."""

from __future__ import annotations

import re
from typing import NamedTuple

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")  # longer ones the Hub refuses
REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)*")  # also refs/pr/1
PREFIX = "hf:"
SUFFIX = ".gguf"


class HubName(NamedTuple):
    """A repository, and which of its models.

    Attributes:
        repo: `USER/NAME`.
        quant: such as Q4_K_M, or the name of a file; None: any.
        revision: a branch, tag or commit; None: the main branch.

    """

    repo: str
    quant: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.at_revision}:{self.quant}" if self.quant else self.at_revision

    @property
    def at_revision(self) -> str:
        """The name without the quant."""
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def parse_name(text: str) -> HubName | None:
    """Read the name of a model on the Hub; None for what can only be a path, as that of a GGUF file."""
    named = text.removeprefix(PREFIX)
    repo, colon, quant = named.partition(":")
    repo, at, revision = repo.rstrip("/").partition("@")
    if not HUB_ID.fullmatch(repo) or (colon and not quant) or (at and not REVISION.fullmatch(revision)):
        return None
    if named is text and repo.lower().endswith(SUFFIX):
        return None
    return HubName(repo, quant or None, revision or None)
