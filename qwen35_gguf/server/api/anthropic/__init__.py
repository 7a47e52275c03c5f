"""Anthropic's Messages API: what it asks for as messages and options, and answers as its blocks and events.

Source of the forms: the types of Anthropic's Python client, which the tests parse everything with.
"""
