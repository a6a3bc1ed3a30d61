"""Which settings the code reads: `config.tune.lr`, or `config.lr` where `config` is known to be of `[tune]`.

    >>> settings_read({"a.py": "def f(config: TuneConfig, other): return config.lr + other.rank"})
    {(<class 'metier.core.settings.TuneConfig'>, 'lr')}

What a name holds follows from annotations, loops and assignments of its function; the attribute name alone is no
proof, for `path.name` and `guard.name` look alike. A sequence of settings is taken for its items.
"""

from __future__ import annotations

import ast
import types
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from metier.core.config import Settings
from metier.core.project_file import ProjectConfig

Kinds = set[type[Settings]]
Known = Mapping[str, Kinds]


def settings_in(hint: Any) -> Kinds:
    """The settings classes an annotation names, through tuples, mappings and unions."""
    if isinstance(hint, type) and get_origin(hint) is None:
        return {hint} if issubclass(hint, Settings) else set()
    if get_origin(hint) in (Union, types.UnionType, tuple, Mapping):
        return set().union(*(settings_in(item) for item in get_args(hint)))
    return set()


def every_table() -> dict[type[Settings], dict[str, Kinds]]:
    """Every settings class of a project file with its fields, and the classes each of them holds."""
    left, found = [ProjectConfig], {}
    while left:
        cls = left.pop()
        hints = get_type_hints(cls)
        found[cls] = {field.name: settings_in(hints[field.name]) for field in fields(cls)}
        left += [inner for kinds in found[cls].values() for inner in kinds if inner not in found]
    return found


TABLES = every_table()
CLASS_BY_NAME = {cls.__name__: cls for cls in TABLES}


def settings_read(texts: Mapping[str, str]) -> set[tuple[type[Settings], str]]:
    """(class, field) of every setting that is read in these modules."""
    trees = [ast.parse(text) for text in texts.values()]
    members: dict[str, Kinds] = defaultdict(set)
    for tree in trees:
        for name, kinds in _members(tree):
            members[name] |= kinds
    return {read for tree in trees for scope in _scopes(tree) for read in _reads(scope, members)}


def _annotated(annotation: ast.AST | None) -> Kinds:
    names = (node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)) if annotation else ()
    return {CLASS_BY_NAME[name] for name in names if name in CLASS_BY_NAME}


def _members(tree: ast.AST) -> Iterator[tuple[str, Kinds]]:
    """What attributes of other objects and returned values hold, by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    yield item.target.id, _annotated(item.annotation)
        elif isinstance(node, ast.FunctionDef):
            yield node.name, _annotated(node.returns)
            given = {arg.arg: _annotated(arg.annotation) for arg in node.args.args + node.args.kwonlyargs}
            for target, value in (pair for inner in ast.walk(node) for pair in _bindings(inner)):
                if isinstance(target, ast.Attribute) and isinstance(value, ast.Name):
                    yield target.attr, given.get(value.id, set())


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    """Functions, methods, and what stands outside of them, each with names of its own."""
    for node in tree.body:
        yield from node.body if isinstance(node, ast.ClassDef) else [node]


def _bindings(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(target, value) pairs of an assignment, a loop or a comprehension."""
    if isinstance(node, ast.For | ast.comprehension):
        yield node.target, node.iter
    elif isinstance(node, ast.NamedExpr):
        yield node.target, node.value
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                yield from zip(target.elts, node.value.elts, strict=True)
            else:
                yield target, node.value


def _reads(scope: ast.AST, members: Known) -> Iterator[tuple[type[Settings], str]]:
    nodes = list(ast.walk(scope))
    names: dict[str, Kinds] = {node.arg: _annotated(node.annotation) for node in nodes if isinstance(node, ast.arg)}
    for _ in range(3):  # a name may be bound by way of two others
        for target, value in (pair for node in nodes for pair in _bindings(node)):
            if isinstance(target, ast.Name):
                names[target.id] = names.get(target.id, set()) | _kinds(value, names, members)
    for node in nodes:
        if isinstance(node, ast.Attribute):
            yield from ((cls, node.attr) for cls in _kinds(node.value, names, members) if node.attr in TABLES[cls])


def _kinds(node: ast.expr, names: Known, members: Known) -> Kinds:
    """The settings classes an expression may be of."""
    if isinstance(node, ast.Name):
        return names.get(node.id, set())
    if isinstance(node, ast.Attribute):
        owners = _kinds(node.value, names, members)
        held = set().union(*(TABLES[cls].get(node.attr, set()) for cls in owners))
        return held or (set() if owners else members.get(node.attr, set()))
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in ("next", "replace", "list", "sorted", "enumerate"):
            return _kinds(node.args[0], names, members)
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return members.get(called, set())
    return set().union(*(_kinds(each, names, members) for each in _parts(node)))


def _parts(node: ast.expr) -> list[ast.expr]:
    """The expressions whose value an expression passes on, whole or as items."""
    if isinstance(node, ast.GeneratorExp | ast.ListComp):
        return [node.elt]
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.BoolOp):
        return node.values
    return [node.value] if isinstance(node, ast.Subscript) else []
