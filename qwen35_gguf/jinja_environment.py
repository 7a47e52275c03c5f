"""The sandbox in which chat templates are compiled, with what transformers gives them.

Templates come from untrusted files: they can read their variables and nothing else, and what they cost is counted
(`template_budget`). Source: transformers chat_template_utils.py (`_cached_compile_jinja_template`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from qwen35_gguf.errors import MissingDependencyError
from qwen35_gguf.template_budget import LARGEST_NUMBER, LARGEST_SIZE, current

if TYPE_CHECKING:
    from jinja2 import Environment, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment


def jinja_environment() -> ImmutableSandboxedEnvironment:
    """Make an environment without filters and functions of its own.

    Raises:
        MissingDependencyError: jinja2 is not installed.

    """
    try:
        import jinja2.ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        message = "jinja2 is needed for chat templates; install it with pip install jinja2"
        raise MissingDependencyError(message) from None

    class Generation(jinja2.ext.Extension):
        """The block `{% generation %}`, which marks the assistant's text for training and changes nothing here."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class CountedEnvironment(ImmutableSandboxedEnvironment):
        """Counts what templates do, at every place where they can repeat or make something."""

        intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

        def _generate(self, source: Any, *arguments: Any, **options: Any) -> str:
            _count(source, self)
            return super()._generate(source, *arguments, **options)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            current().binary(operator, left, right)
            return current().value(super().call_binop(context, operator, left, right))

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as there
            if getattr(__obj, "__func__", None) in PLACES:
                return __obj(*args)
            args = tuple(list(current().value(one)) if isinstance(one, GeneratorType) else one for one in args)
            _before_call(__obj, (*args, *kwargs.values()))
            return current().value(super().call(__context, __obj, *args, **kwargs))

        def step(self, characters: int = 0) -> bool:
            """Count a turn of a loop, in which a template writes some characters of its own."""
            return current().spend(1 + characters // 16)

        def counted(self, value: Any) -> Any:
            """Count a value."""
            return current().value(value)

        def joined(self, *parts: Any) -> str:
            """Join values as texts."""
            current().made(sum(map(current().weight, parts)))
            return "".join(map(str, parts))

    PLACES = (CountedEnvironment.step, CountedEnvironment.counted, CountedEnvironment.joined)  # noqa: N806
    environment = CountedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,  # which would run parts of a template when it is compiled
        finalize=lambda value: current().value(value),
        extensions=[Generation, jinja2.ext.loopcontrols],
    )
    del environment.globals["lipsum"]
    for table in (environment.filters, environment.tests):
        for name, function in list(table.items()):
            table[name] = counted_filter(name, function)
    return environment


def counted_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter or a test: its arguments are counted before it runs, and its result after."""
    skipped = int(hasattr(function, "jinja_pass_arg"))

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        budget = current()
        values = [budget.value(one) for one in args[skipped:]]
        given = (*values[1:], *kwargs.values())
        _check_numbers(name, given)
        if values and isinstance(values[0], str):
            budget.method(values[0], name, given)
        elif name == "join" and values:
            values[0] = list(values[0])
            mark = next((one for one in given if isinstance(one, str)), "")
            budget.method(mark, name, (values[0],))
        elif name == "sum" and any(isinstance(one, list | tuple | str) for one in given):
            budget.made(LARGEST_SIZE + 1)  # adding lists takes the square of their number
        return budget.value(function(*args[:skipped], *values, **kwargs))

    return counted


def _check_numbers(name: str, given: tuple[Any, ...]) -> None:
    if name in ("batch", "center", "indent", "round", "slice", "tojson", "truncate", "wordwrap"):
        for value in given:
            if isinstance(value, int) and abs(value) > (LARGEST_NUMBER if name == "truncate" else 1000):
                current().made(LARGEST_SIZE + 1)


def _before_call(function: Any, arguments: tuple[Any, ...]) -> None:
    """Count what a method will make, and what it reads."""
    method = getattr(function, "__wrapped__", function)  # of `str.format`, which the sandbox wraps
    owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    if isinstance(owner, str):
        if name in ("format", "format_map"):
            current().formatted(owner, "{", arguments)
        else:
            current().method(owner, name, arguments)
    elif isinstance(owner, list | tuple | dict):
        current().made(len(owner))


def _count(template: nodes.Template, environment: Environment) -> None:
    """Put counting into a parsed template: into loops and macros, around what is made without a call."""
    from jinja2 import nodes

    def called(name: str, *arguments: nodes.Expr) -> nodes.Expr:
        return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)

    def inside(node: nodes.Node) -> None:
        for field, value in node.iter_fields():
            if isinstance(value, nodes.Node):
                setattr(node, field, changed(value))
            elif isinstance(value, list):
                value[:] = [changed(item) if isinstance(item, nodes.Node) else item for item in value]

    def changed(node: nodes.Node) -> nodes.Node:
        inside(node)
        if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            written = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
            node.body.insert(0, nodes.ExprStmt(called("step", nodes.Const(written))))
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(called("step"), node.test)
        if isinstance(node, nodes.Concat):
            return called("joined", *node.nodes)
        literal = isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load")
        if literal or (isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)):
            return called("counted", node)  # type: ignore[arg-type]
        if isinstance(node, nodes.Compare):
            node.expr = called("counted", node.expr)
            for operand in node.ops:
                operand.expr = called("counted", operand.expr)
        return node

    inside(template)
    template.set_environment(environment)
