"""Chat templates that would take all time or memory end with an error, and ordinary ones are not touched."""

from __future__ import annotations

from typing import Any

import pytest

from fuzz.target import limited_time
from qwen35_gguf import template_budget
from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.chat.template import ChatTemplate

pytestmark = pytest.mark.unit
USER = [{"role": "user", "content": "Hi"}]
MEGABYTE = "{% set a = 'a ' * 10**6 %}"
GROW = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(64) %}"

BOMBS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops that are filtered": "{% for i in range(99999) %}{% for j in range(99999) if 0 %}{% endfor %}{% endfor %}",
    "text in loops": "{% for i in range(99999) %}{% for j in range(99) %}" + "x" * 9999 + "{% endfor %}{% endfor %}",
    "a repeated text": "{{ 'a' * 10**12 }}",
    "a list": "{{ [1] * 10**12 }}",
    "powers": "{% set ns = namespace(x=10) %}{% for i in range(64) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "a power": "{{ 10 ** (10 ** 9) }}",
    "doubled text": "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "a sum of texts": "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "lists in lists": GROW + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "objects in objects": GROW + "{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x|tojson }}",
    "equal lists": GROW + "{% set ns.x = [ns.x] * 2 %}{% set ns.y = [ns.y] * 2 %}{% endfor %}{{ ns.x == ns.y }}",
    "tuples": GROW + "{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} }}",
    "macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
    "a macro without end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a loop without end": "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "center": "{{ 'a'|center(10**10) }}",
    "methods": "{{ 'a'.ljust(width=10**10) }}",
    "tabs": "{{ ('\t' * 10**6).expandtabs(10**6) }}",
    "a format": "{{ '%9999999999d' % 1 }}",
    "a width": "{{ '%*d' % (10**10, 1) }}",
    "a field": "{{ '{:9999999999}'.format(1) }}",
    "a field in a field": "{{ '{:{}}'.format(1, 10**10) }}",
    "a filter": "{{ '%9999999999d'|format(1) }}",
    "fields": MEGABYTE + "{{ ('%(x)s' * 10**6) % {'x': a} }}",
    "replace": MEGABYTE + "{{ a.replace('a', a) }}",
    "the filter replace": MEGABYTE + "{{ a|replace('a', a) }}",
    "join": MEGABYTE + "{{ a.join(a) }}",
    "the filter join": MEGABYTE + "{{ range(99999)|map('string')|join(a) }}",
    "indent": MEGABYTE + "{{ ('\n' * 10**6)|indent(a) }}",
    "wrapped": MEGABYTE + "{{ a|wordwrap(1, wrapstring=a) }}",
    "indented JSON": "{{ [[[1]]]|tojson(indent=10**10) }}",
    "batches": "{{ [1]|batch(10**10, 'x')|list }}",
    "lorem": "{{ lipsum(n=10**6) }}",
    "sums of lists": "{{ range(99999)|map('list')|sum(start=[]) }}",
    "generators": "{% for i in range(99999) %}{{ range(99999)|map('string')|list|length }}{% endfor %}",
    "searches": "{% set l = range(99999)|list %}{% for i in range(99999) %}{% if 'x' in l %}{% endif %}{% endfor %}",
    "slices": MEGABYTE + "{% for i in range(99999) %}{% set x = a[::-1] %}{% endfor %}",
    "output": MEGABYTE + "{% for i in range(99999) %}{{ a }}{% endfor %}",
    "a block": MEGABYTE + "{% set x %}{% for i in range(99999) %}{{ a }}{% endfor %}{% endset %}",
    "links": "{% for i in range(999) %}{{ ('www.a.b ' * 10**5)|urlize }}{% endfor %}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "loops in loops": "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
    "conditions": "{% if 1 %}" * 200 + "{% endif %}" * 200,
    "digits": "{{ " + "9" * 5000 + " }}",
    "signs": "{{ " + "-" * 5000 + "1 }}",
}


@pytest.mark.skipif("sys.platform == 'win32'", reason="needs a clock of the process")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_budget, "STEPS", 60_000)
    with limited_time(30.0), pytest.raises(MessageError, match=r"^chat template: ") as caught:
        ChatTemplate(BOMBS[name]).render(USER)
    assert "\n" not in str(caught.value)


# An attacker reaches for what is behind objects; nothing is printed of it.
@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''|attr('__class__') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{0.__class__}'.format_map({'0': 1}) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__ }}",
        "{{ (messages|map('list')).gi_frame }}",
        "{% set _ = messages.append(1) %}",
        "{{ messages|map(attribute='__class__')|list }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ strftime_now.__self__ }}",
        "{{ environment }}{{ context }}",
    ],
)
def test_nothing_behind_an_object_is_reached(source: str) -> None:
    try:
        text = ChatTemplate(source).render(USER)
    except MessageError:
        return
    assert not text.replace("[]", "").replace("[Undefined]", "").strip()


def test_long_chats_have_a_larger_budget() -> None:
    source = "{% for m in messages %}{{ (m.content ~ m.content)|trim|replace('x', 'yy')|upper }}{% endfor %}"
    long: list[dict[str, Any]] = [{"role": "user", "content": "x" * 100_000}] * 100
    assert len(ChatTemplate(source).render(long)) == 40_000_000


def test_results_are_those_of_the_sandbox_without_a_budget() -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    source = (
        "{% set ns = namespace(n=0, l=[]) %}{% for i in range(5) if i % 2 %}{% set ns.n = ns.n + i %}"
        "{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.n }} {{ ns.l[::-1] }} {{ 'a' ~ 1 ~ none }} {{ (1, 2) }} "
        "{{ {'a': [1]}|tojson }} {{ 'x%s' % 3 }} {{ '{:>4}'.format(2) }} {{ [3, 1]|sort|join('-') }} {{ 2 < 3 <= 3 }} "
        "{% macro f(x, y=2) %}{{ x * y }}{{ caller() if caller }}{% endmacro %}{% call f(3) %}c{% endcall %} "
        "{{ messages|map(attribute='role')|list }} {{ 'a b'.split(' ') }} {{ 'abc'|replace('b', 'd') }} {{ unknown }}"
        "{% for a, b in {'k': 1}.items() %}{{ a }}{{ b }}{{ loop.index }}{% else %}none{% endfor %} {{ 7 // 2 }}"
        " {{ -3 }}{{ 'x' in ['x'] }} {{ 1 is odd }} {{ 'ab'|first }} {{ [1, 2]|sum }} {{ ['a']|batch(2, '-')|list }}"
    )
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    assert ChatTemplate(source).render(USER) == plain.from_string(source).render(messages=USER)
