"""OpenAI's Responses API: items in place of messages, and answers that later requests refer to.

Source of the forms: the types of OpenAI's Python client, which the tests parse everything with.
"""
