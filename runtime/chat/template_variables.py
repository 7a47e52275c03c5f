"""Which variables a chat template reads that it does not set itself.

`jinja2.meta` also names what a template sets in one branch and reads in another; here a variable that is set before it
is read in its scope is the template's own. Source of the scopes: the documentation of Jinja, "Assignments".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import nodes

OF_MACROS = ("varargs", "kwargs", "caller")


def variables_of(template: nodes.Template) -> set[str]:
    """Return the names of a parsed template that are read before they are set."""
    from jinja2.visitor import NodeVisitor

    found: set[str] = set()
    scopes: list[set[str]] = [set()]
    macros: list[nodes.Macro] = []

    class Reader(NodeVisitor):
        """Goes through a template in the order in which it is run; bodies of macros come last, when all is set."""

        def visit_Name(self, node: nodes.Name) -> None:  # noqa: N802 - as jinja2 calls it
            if node.ctx != "load":
                scopes[-1].add(node.name)
            elif not any(node.name in scope for scope in scopes):
                found.add(node.name)

        def visit_Assign(self, node: nodes.Assign) -> None:  # noqa: N802
            self.all([node.node, node.target])

        def visit_AssignBlock(self, node: nodes.AssignBlock) -> None:  # noqa: N802
            self.inner([*([node.filter] if node.filter else []), *node.body])
            self.visit(node.target)

        def visit_For(self, node: nodes.For) -> None:  # noqa: N802
            self.visit(node.iter)
            self.inner([node.target, *([node.test] if node.test else []), *node.body], "loop")
            self.inner(node.else_)

        def visit_Macro(self, node: nodes.Macro) -> None:  # noqa: N802
            scopes[-1].add(node.name)
            macros.append(node)

        def visit_CallBlock(self, node: nodes.CallBlock) -> None:  # noqa: N802
            self.visit(node.call)
            self.inner([*node.defaults, *node.args, *node.body])

        def visit_FilterBlock(self, node: nodes.FilterBlock) -> None:  # noqa: N802
            self.inner([*node.body, node.filter])

        def visit_With(self, node: nodes.With) -> None:  # noqa: N802
            self.all(node.values)
            self.inner([*node.targets, *node.body])

        def all(self, parts: Iterable[nodes.Node]) -> None:
            for part in parts:
                self.visit(part)

        def inner(self, parts: Iterable[nodes.Node], *names: str) -> None:
            scopes.append({*names})
            self.all(parts)
            scopes.pop()

    reader = Reader()
    reader.visit(template)
    while macros:
        macro = macros.pop()
        reader.inner([*macro.defaults, *macro.args, *macro.body], *OF_MACROS)
    return found
