"""A chat template as Ollama's TEMPLATE: a program in Go's text/template that writes the same text.

Sources: template/template.go and docs/template.mdx of Ollama, for the input of the program.

Differences that Go's templates cannot avoid: tools are compact JSON in Ollama's order, arguments are in the order of
their names, and white space around a message stays. If the last message is the assistant's, Ollama lets the model
continue it: its turn is left open.
"""

from __future__ import annotations

import json
import re

from qwen35_gguf.errors import MessageError
from qwen35_gguf.release.ollama.chat_form import CLOSE, Form, OtherFormError, read_form
from qwen35_gguf.runtime.chat.template import ChatTemplate

PLACE = re.compile("«(\\w+)»")
# Every text is a quoted constant, so that white space between actions can be trimmed.
PROGRAM = r"""{{- define "json" -}}
{{- $kind := printf "%T" . -}}
{{- if eq $kind "string" -}}{{- printf "%q" . -}}
{{- else if eq $kind "map[string]interface {}" -}}
  {{- "{" -}}{{- $comma := "" -}}
  {{- range $key, $value := . -}}
    {{- $comma -}}{{- printf "%q: " $key -}}{{- template "json" $value -}}{{- $comma = ", " -}}
  {{- end -}}{{- "}" -}}
{{- else if eq $kind "[]interface {}" -}}
  {{- "[" -}}{{- $comma := "" -}}
  {{- range $value := . -}}
    {{- $comma -}}{{- template "json" $value -}}{{- $comma = ", " -}}
  {{- end -}}{{- "]" -}}
{{- else -}}{{- json . -}}
{{- end -}}
{{- end -}}

{{- define "argument" -}}
{{- $kind := printf "%T" . -}}
{{- if eq $kind "string" -}}{{- . -}}
«as_python»{{- else -}}{{- template "json" . -}}
{{- end -}}
{{- end -}}

{{- $system := "" -}}
{{- $question := -1 -}}
{{- range $i, $message := .Messages -}}
  {{- if and (eq $i 0) (eq $message.Role "system") -}}{{- $system = $message.Content -}}{{- end -}}
  {{- if eq $message.Role "user" -}}{{- $question = $i -}}{{- end -}}
{{- end -}}

{{- if .Tools -}}
  «before_tools»
  {{- range $i, $tool := .Tools -}}
    {{- if $i -}}«between_tools»{{- end -}}{{- json $tool«function» -}}
  {{- end -}}
  «after_tools»
{{- end -}}

{{- $before := "" -}}
{{- range $i, $message := .Messages -}}
  {{- $left := slice $.Messages $i -}}
  {{- $last := eq (len $left) 1 -}}
  {{- $next := "" -}}
  {{- if not $last -}}{{- $next = (index $left 1).Role -}}{{- end -}}
  {{- if eq $message.Role "assistant" -}}
    {{- "<|im_start|>assistant\n" -}}
    {{- if gt $i $question -}}
      {{- if $message.Thinking -}}«before_thought»{{- $message.Thinking -}}«after_thought»
      {{- else -}}«unthought»
      {{- end -}}
    {{- end -}}
    {{- $message.Content -}}
    {{- range $number, $call := $message.ToolCalls -}}
      {{- if $number -}}«other_call»
      {{- else if $message.Content -}}«call_after_text»
      {{- else -}}«first_call»
      {{- end -}}
      {{- printf "<tool_call>\n<function=%s>\n" $call.Function.Name -}}
      {{- range $key, $value := $call.Function.Arguments -}}
        {{- printf "<parameter=%s>\n" $key -}}{{- template "argument" $value -}}{{- "\n</parameter>\n" -}}
      {{- end -}}
      {{- "</function>\n</tool_call>" -}}
    {{- end -}}
    {{- if not $last -}}«close»{{- end -}}
  {{- else if eq $message.Role "tool" -}}
    {{- if eq $before "tool" -}}«between_results»{{- else -}}«before_results»{{- end -}}
    {{- $message.Content -}}
    {{- if ne $next "tool" -}}«after_results»{{- end -}}
  {{- else if or $i (ne $message.Role "system") (not $.Tools) -}}
    {{- printf "<|im_start|>%s\n" $message.Role -}}{{- $message.Content -}}«close»
  {{- end -}}
  {{- if and $last (ne $message.Role "assistant") -}}
    {{- "<|im_start|>assistant\n" -}}
    {{- if not $.IsThinkSet -}}«by_default»
    {{- else if $.Think -}}«with_thoughts»
    {{- else -}}«without_thoughts»
    {{- end -}}
  {{- end -}}
  {{- $before = $message.Role -}}
{{- end -}}
"""
AS_PYTHON = """{{- else if eq $kind "bool" -}}{{- if . -}}{{- "True" -}}{{- else -}}{{- "False" -}}{{- end -}}
{{- else if eq $kind "<nil>" -}}{{- "None" -}}
"""


def ollama_template(source: str) -> str | None:
    """Write a chat template in Go; None if it does not have Qwen3.5's form.

    Raises:
        MissingDependencyError: jinja2 is not installed.

    """
    try:
        return program(read_form(ChatTemplate(source)))
    except (OtherFormError, MessageError):
        return None


def program(form: Form) -> str:
    """Write the program for the texts of a template."""
    place, at = form.system
    before, after = form.around_system
    introduced = [constant(text) for text in form.tools]
    introduced[place] = (
        constant(form.tools[place][:at])
        + f"{{{{- if $system -}}}}{constant(before)}{{{{- $system -}}}}{constant(after)}{{{{- end -}}}}"
        + constant(form.tools[place][at:])
    )
    words = {
        "as_python": AS_PYTHON if form.as_python else "",
        "before_tools": introduced[0],
        "between_tools": introduced[1],
        "after_tools": introduced[2],
        "function": ".Function" if form.only_functions else "",
        "before_thought": constant(form.thought[0]),
        "after_thought": constant(form.thought[1]),
        "unthought": constant(form.unthought),
        "first_call": constant(form.calls[0]),
        "call_after_text": constant(form.calls[1]),
        "other_call": constant(form.calls[2]),
        "before_results": constant(form.results[0]),
        "between_results": constant(form.results[1]),
        "after_results": constant(form.results[2]),
        "by_default": constant(form.prompts[0]),
        "with_thoughts": constant(form.prompts[1]),
        "without_thoughts": constant(form.prompts[2]),
        "close": constant(CLOSE),
    }
    return PLACE.sub(lambda match: words[match[1]], PROGRAM)


def constant(text: str) -> str:
    """Write an action that prints a text; JSON's escapes are valid in Go."""
    return f"{{{{- {json.dumps(text, ensure_ascii=False)} -}}}}" if text else ""
