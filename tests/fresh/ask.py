"""Ask a server of this machine one question, and print the answer; wait for the server at most a minute."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request

BODY = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0, "max_tokens": 40}


def main(port: str) -> None:
    """Print the answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(BODY).encode(), {"Content-Type": "application/json"}
    )
    for _ in range(120):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                print(json.load(answer)["choices"][0]["message"]["content"])
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    sys.exit("no answer")


if __name__ == "__main__":
    main(sys.argv[1])
