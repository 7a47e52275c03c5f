"""Chromium, as the system has it, and the chat page in it."""

from inputs.clients.chat_page import browser, open_page, page

__all__ = ["browser", "open_page", "page"]
