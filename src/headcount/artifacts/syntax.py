"""A file of Python, statement by statement: what each means, what it binds, and what it mentions.

No part of a meaning are comments, docstrings, formatting, where a statement stands, and what is
only said: the texts of exceptions and assertions, and lines for a logger.
"""

import ast
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

LOGGERS = ("logger", "logging", "warnings")
WHOLE = "*"  # bound by an import: all that is in the module
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SCOPES = (*FUNCTIONS, *COMPREHENSIONS, ast.ClassDef)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)


@dataclass(frozen=True)
class Import:
    """What runs a module: `from module import name` binds `bound`; without a name, the module."""

    level: int  # 0: absolute
    module: str
    name: str = ""
    bound: str = ""

    @property
    def top(self) -> str:
        """The top-level module, of an absolute import."""
        return (self.module or self.name).partition(".")[0]


@dataclass(frozen=True)
class Statement:
    """A statement at the top of a file."""

    text: str  # its meaning, with blanks for the names that are imported
    mentions: tuple[tuple[str, ...], ...]  # a name, and the attributes of it, in the same order
    binds: frozenset[str]
    is_definition: bool  # of a function or a class
    acts: bool  # when the file is imported, beside binding names
    imports: tuple[Import, ...]  # in its blocks, and in functions

    @cached_property
    def identity(self) -> str:
        """What tells it from other statements, whatever the names in it stand for."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Source:
    """What a file means, and what it names."""

    statements: tuple[Statement, ...]
    imports: tuple[Import, ...]  # when the file is imported
    reads_docstrings: bool  # `x.__doc__`, `getattr(x, "__doc__")` or `getdoc`

    @cached_property
    def binding(self) -> dict[str, list[int]]:
        """Name -> the statements that bind it."""
        found: dict[str, list[int]] = {}
        for index, statement in enumerate(self.statements):
            for name in statement.binds:
                found.setdefault(name, []).append(index)
        return found

    @cached_property
    def imported(self) -> dict[str, list[Import]]:
        """Name -> what it may be imported from."""
        found: dict[str, list[Import]] = {}
        for one in self.imports:
            found.setdefault(one.bound, []).append(one)
        return found


def read(path: Path) -> Source:
    """What the file at `path` means. Raises `SyntaxError`."""
    return _parsed(path.read_bytes(), path)


def docstrings(path: Path) -> list:
    """The docstrings in a file, and what else stands there for itself."""
    nodes = _below(ast.parse(path.read_bytes()))
    return [node.value.value for node in nodes if _is_idle(node)]  # type: ignore[attr-defined]


@cache
def _parsed(content: bytes, path: Path) -> Source:
    """What a file means."""
    tree = ast.parse(content, str(path))
    tree.body = [node for node in tree.body if not _is_for_type_checkers(node)]
    imports = imports_of(_running(tree))
    statements = tuple(_statement(one, imports) for one in tree.body if not _is_nothing(one))
    return Source(statements, imports, b"__doc__" in content or b"getdoc" in content)


def _statement(node: ast.stmt, of_file: tuple[Import, ...]) -> Statement:
    if is_definition := isinstance(node, DEFINITIONS):
        binds, acts = {node.name}, False
    else:
        binds = _stored(_running(node))
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        acts = not (isinstance(node, ASSIGNMENTS) and all(map(_is_plain, targets)))
    reader = _Reader(of_file)
    text, mentions = ast.dump(reader.visit(node), annotate_fields=False), tuple(reader.mentions)
    imports = tuple(reader.imports)
    return Statement(text, mentions, frozenset(binds), is_definition, acts, imports)


class _Reader(ast.NodeTransformer):
    """Takes out of a syntax tree what does nothing, and leaves blanks for what is imported."""

    def __init__(self, of_file: Iterable[Import]):
        self.imported = {one.bound for one in of_file}
        self.imports: list[Import] = []  # that are found in the tree
        self.mentions: list[tuple[str, ...]] = []
        self.local: list[set[str]] = []  # names of the functions around
        self.saying = False  # in what an exception says

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, FUNCTIONS):
            return self._function(node)
        if isinstance(node, COMPREHENSIONS):
            return self._comprehension(node)
        return super().visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for key, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                self._import(value)
                setattr(node, key, [one for one in value if not _is_nothing(one)])
        return super().generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self._import([node])
        return self.generic_visit(node)

    def _import(self, nodes: Iterable[ast.AST]) -> None:
        found = imports_of(nodes)
        self.imports += found
        self.imported |= {one.bound for one in found}

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        is_said = self.saying and isinstance(node.value, str)
        return ast.Constant("" if is_said else node.value)  # u"text" is "text"

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return ast.Constant("") if self.saying else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        self.saying = True
        self.generic_visit(node)
        self.saying = False
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        self._mention(node)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        inner: ast.expr = node
        attributes: list[str] = []
        while isinstance(inner, ast.Attribute):
            attributes.insert(0, inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            return self.generic_visit(node)
        self._mention(inner, *attributes)
        return node

    def _mention(self, node: ast.Name, *attributes: str) -> None:
        if isinstance(node.ctx, ast.Load) and not any(node.id in names for names in self.local):
            self.mentions.append((node.id, *attributes))
            if node.id in self.imported:
                node.id = ""

    def _function(self, node: Any) -> ast.AST:
        body = node.body if isinstance(node.body, list) else [ast.Return(node.body)]
        node.body = []
        self.generic_visit(node)  # decorators and defaults are evaluated outside
        self.local.append(_local(node.args, body))
        node.body = self.generic_visit(ast.Module(body, [])).body  # type: ignore[attr-defined]
        self.local.pop()
        return node

    def _comprehension(self, node: Any) -> ast.AST:
        first = node.generators[0]
        iterated = self.visit(first.iter)  # evaluated outside
        first.iter = ast.Constant(None)
        self.local.append(_stored([n for one in node.generators for n in ast.walk(one.target)]))
        self.generic_visit(node)
        self.local.pop()
        first.iter = iterated
        return node


def _local(arguments: ast.arguments, body: list[ast.stmt]) -> set[str]:
    """The names that are local to a function, but for those that it imports."""
    own = [node for one in body for node in _below(one, SCOPES)]
    names = {node.arg for node in ast.walk(arguments) if isinstance(node, ast.arg)} | _stored(own)
    return names - {name for node in own if isinstance(node, ast.Global) for name in node.names}


def _stored(nodes: list[ast.AST]) -> set[str]:
    """The names that are assigned to, or defined."""
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names | {node.name for node in nodes if isinstance(node, DEFINITIONS)}


def _running(node: ast.AST) -> list[ast.AST]:
    """What is evaluated as a file is imported: all but what is inside of functions."""
    return _below(node, FUNCTIONS)


def _below(node: ast.AST, without: tuple[type, ...] = ()) -> list[ast.AST]:
    """The nodes below one, itself included, without what is inside of those of some types."""
    found = [node]
    for one in found:
        if isinstance(one, without):
            continue
        for key in one._fields:
            value = getattr(one, key, None)
            if isinstance(value, ast.AST):
                found.append(value)
            elif isinstance(value, list):
                found += [inner for inner in value if isinstance(inner, ast.AST)]
    return found


def imports_of(nodes: Iterable[ast.AST]) -> tuple[Import, ...]:
    """What is imported by some nodes, each by itself."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                found.append(Import(0, alias.name, bound=alias.asname or ""))
                found += [] if alias.asname else [Import(0, top, bound=top)]
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                bound = alias.asname or alias.name
                found.append(Import(node.level, node.module or "", alias.name, bound))
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            name = getattr(node.args[0], "value", None) if node.args else None
            if isinstance(name, str):
                inner = name.lstrip(".")
                found.append(Import(len(name) - len(inner), inner, bound=WHOLE))
    return tuple(found)


def called(node: ast.Call) -> str:
    """The name of what is called, without what it is an attribute of."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _is_plain(target: ast.AST | None) -> bool:
    """Whether an assignment binds names, and changes nothing that there is."""
    if isinstance(target, ast.Tuple):
        return all(map(_is_plain, target.elts))
    return isinstance(target, ast.Name)


def _is_idle(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_for_type_checkers(node: ast.AST) -> bool:
    """Whether a statement never runs: `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _is_nothing(node: ast.AST) -> bool:
    """Whether a statement decides nothing; what an import binds counts where it is mentioned."""
    is_logged = (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Attribute)
        and getattr(node.value.func.value, "id", None) in LOGGERS
    )
    is_import = isinstance(node, ast.Import | ast.ImportFrom)
    return is_logged or is_import or isinstance(node, ast.Pass) or _is_idle(node)
