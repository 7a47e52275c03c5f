"""The lines that `qwen35 serve` prints: for curl, for Python, and for agents."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import dataclass

EVERYWHERE = ("0.0.0.0", "::")
# What a shell puts in the place of a key. The keys themselves are not printed.
NO_KEY = "none"
ONE_KEY, FIRST_KEY = "${QWEN35_API_KEY:?}", "${QWEN35_API_KEY%%[ ,]*}"
KEY_NOTE = "QWEN35_API_KEY above is one of the keys: set it where you use these lines."


def address_of(host: str, port: int) -> str:
    """Return where clients of this machine find a server that listens on a host."""
    name = "localhost" if host in ("127.0.0.1", *EVERYWHERE) else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def key_word(keys: int, *, from_environment: bool) -> str:
    """Return what stands for the key in the lines.

    Args:
        keys: how many the server has.
        from_environment: they are in QWEN35_API_KEY, perhaps several; else a user of the lines sets it to one of them.

    """
    if not keys:
        return NO_KEY
    return FIRST_KEY if from_environment and keys > 1 else ONE_KEY


@dataclass(frozen=True)
class LinesToCopy:
    """Where a server is, what it serves, and what a shell puts in the place of its key."""

    address: str
    model: str
    key: str

    def curl(self) -> str:
        """Return a line that asks with curl."""
        body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
        header = f' -H "Authorization: Bearer {self.key}"' if self.key != NO_KEY else ""
        return f"curl {shlex.quote(self.address + '/v1/chat/completions')}{header} -d '{body}'"

    def python(self) -> str:
        """Return a line that asks with OpenAI's client, and says how to install it.

        A shell without comments in its lines gives that to Python as arguments, which it ignores.
        """
        client = f"openai.OpenAI(base_url={self.address + '/v1'!r}, api_key='KEY')"
        asked = f"model={self.model!r}, messages=[{{'role': 'user', 'content': 'Hello'}}]"
        code = f"import openai; print({client}.chat.completions.create({asked}).choices[0].message.content)"
        code = re.sub(r'[\\"$`]', r"\\\g<0>", code).replace("'KEY'", f"'{self.key}'", 1)
        return f'{"python" if sys.platform == "win32" else "python3"} -c "{code}"  # pip install openai'

    def agent(self) -> str:
        """Return a line that lets agents use the server."""
        key, address = f'"{self.key}"' if self.key != NO_KEY else NO_KEY, shlex.quote(self.address)
        openai = f"OPENAI_BASE_URL={shlex.quote(self.address + '/v1')} OPENAI_API_KEY={key}"
        return f"export {openai} ANTHROPIC_BASE_URL={address} ANTHROPIC_API_KEY={key}"
