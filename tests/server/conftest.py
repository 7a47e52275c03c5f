"""The trained demo model behind a server on loopback."""

from inputs.demo_server import demo, server, start

__all__ = ["demo", "server", "start"]
