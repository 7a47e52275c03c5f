"""Clients of a server with OpenAI's API, each in a thread: chats of some turns, and when each piece came."""

from __future__ import annotations

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass
class Turn:
    """What a turn took.

    Attributes:
        first: seconds to the first piece.
        seconds: to the last.
        gaps: seconds between pieces.
        times: when each gap ended, of `time.perf_counter`.
        tokens: generated.
        prompt: tokens of the prompt.
        evaluated: of these, those that were not reused.
        text: of the answer.

    """

    first: float = 0.0
    seconds: float = 0.0
    gaps: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    tokens: int = 0
    prompt: int = 0
    evaluated: int = 0
    text: str = ""


def ask(port: int, messages: list[Message], tokens: int, enough: threading.Event | None = None) -> Turn:
    """Stream an answer of N tokens, without thinking and greedy; random weights must not repeat one token for ever.

    `enough` ends it before.
    """
    body = {
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": tokens,
        "temperature": 0,
        "repeat_penalty": 8.0,
        "cache_prompt": True,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1200)
    turn, pieces = Turn(), []
    start = last = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(response.read().decode())
    for line in response:
        if enough is not None and enough.is_set():
            break
        if not line.startswith(b"data: {"):
            continue
        data = json.loads(line[6:])
        if usage := data.get("usage"):
            turn.tokens, turn.prompt = usage["completion_tokens"], usage["prompt_tokens"]
            turn.evaluated = turn.prompt - (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        delta = data["choices"][0]["delta"] if data.get("choices") else {}
        if not delta.get("content"):
            continue
        pieces.append(delta["content"])
        now = time.perf_counter()
        if turn.first:
            turn.gaps.append(now - last)
            turn.times.append(now)
        else:
            turn.first = now - start
        last = now
    turn.seconds, turn.text = time.perf_counter() - start, "".join(pieces)
    connection.close()
    return turn


def question(name: str, turn: int) -> Message:
    """Return what a client asks in a turn, from 1."""
    return {"role": "user", "content": f"{name} asks question {turn}: what follows from this?"}


def chat(port: int, system: str, name: str, turns: int, tokens: int, pause: float = 0.0) -> list[Turn]:
    """Chat for some turns behind a system prompt, continuing with the server's own answers."""
    messages: list[Message] = [{"role": "system", "content": system}]
    done: list[Turn] = []
    for number in range(turns):
        if done:
            time.sleep(pause)
        messages.append(question(name, number + 1))
        done.append(ask(port, messages, tokens))
        messages.append({"role": "assistant", "content": done[-1].text})
    return done


def chats(
    port: int, system: str, clients: int, turns: int, tokens: int, *, pause: float = 0.0
) -> tuple[float, list[list[Turn]]]:
    """Let clients chat side by side; return the seconds without pauses that it took, and the turns of each."""
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        names = [f"Client {number}" for number in range(clients)]
        found = list(pool.map(lambda name: chat(port, system, name, turns, tokens, pause), names))
    return time.perf_counter() - start - pause * (turns - 1), found


def by_turns(port: int, system: str, chats: int, turns: int, tokens: int) -> list[list[Turn]]:
    """Continue some chats one after another, for some turns; return the turns, of all chats each."""
    histories: list[list[Message]] = [[{"role": "system", "content": system}] for _ in range(chats)]
    found = []
    for number in range(turns):
        done = []
        for at, messages in enumerate(histories):
            messages.append(question(f"Client {at}", number + 1))
            done.append(ask(port, messages, tokens))
            messages.append({"role": "assistant", "content": done[-1].text})
        found.append(done)
    return found
