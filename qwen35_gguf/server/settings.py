"""What the operator of a server decides; checked when it is made."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from qwen35_gguf.errors import ServerError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class RequestLimits:
    """What a request may hold.

    Attributes:
        body_bytes: of the whole body, images included.
        body_values: commas of a body, those in its texts too: no other thread runs while it is parsed.
        body_containers: opening brackets, likewise.
        body_escapes: backslashes, likewise.
        text_bytes: of all texts of a body, without images.
        messages: of a conversation.
        parts: of all its messages, texts and images; items of the Responses API.
        media: images and videos of a conversation.
        pixels: to which a larger image is reduced.
        schema_bytes: of the JSON schemas of tools and of the answer, as JSON.
        schema_parts: objects inside of them: compiling takes time that grows with their square.
        grammar_bytes: of a grammar.
        regex_bytes: of a regular expression, in a schema too.
        choices: `n`, and prompts of the completions.
        answers: to all prompts of the completions.
        biases: entries of `logit_bias`.
        stops: texts of `stop`, which are looked for after each token.

    """

    body_bytes: int = 64 << 20
    body_values: int = 1 << 20
    body_containers: int = 1 << 18
    body_escapes: int = 1 << 22
    text_bytes: int = 8 << 20
    messages: int = 4096
    parts: int = 1 << 14
    media: int = 64
    pixels: int = 4 << 20
    schema_bytes: int = 256 << 10
    schema_parts: int = 2000
    grammar_bytes: int = 64 << 10
    regex_bytes: int = 4096
    choices: int = 16
    answers: int = 64
    biases: int = 1 << 16
    stops: int = 64


@dataclass(frozen=True)
class ServerSettings:
    """How a server listens, whom it answers, and when it gives up.

    Attributes:
        host: the address to listen on.
        port: 0 takes a free one.
        api_keys: of which a request must have one; none: no request needs any.
        without_key: listen beyond loopback although there is no key.
        hosts: names by which clients may call this machine, beside IP addresses, localhost and `host`.
        origins: of web pages elsewhere that may use the server; "*" for all.
        limits: of requests.
        queue: requests that may wait for a model; the next one is refused.
        grace: seconds that streams may take to end after SIGTERM.
        heartbeat: seconds after which a silent stream gets a comment.
        patience: seconds that a client may take to send its request or to read a piece of the answer.
        log_requests: log what requests ask and what is answered.
        isolate: requests of two keys share nothing of what is known of their prompts, and no responses.

    Raises:
        ServerError: clients beyond this machine could use it without a key, or a value is malformed.

    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    without_key: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    limits: RequestLimits = RequestLimits()
    queue: int = 64
    grace: float = 30.0
    heartbeat: float = 5.0
    patience: float = 120.0
    log_requests: bool = False
    isolate: bool = False

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.api_keys and not self.without_key:
            raise ServerError(
                f"host: {self.host} is reachable from other machines, and there is no key; give an API key"
            )
        if any(not key or not key.isascii() or not key.isprintable() or " " in key for key in self.api_keys):
            raise ServerError("api_keys: a key is empty, or has characters that a header cannot have; use another")
        if self.isolate and not self.api_keys:
            raise ServerError("isolate: keeps requests of different keys apart, and there is no key; give API keys")
        if "*" in self.origins and not self.api_keys:
            raise ServerError("origins: * lets every web page use the server, and there is no key; give an API key")


def is_loopback(host: str) -> bool:
    """Report whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
