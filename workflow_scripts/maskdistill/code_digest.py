"""A digest of the logic that a program depends on.

It covers the syntax trees of the program and of every module of this project that it imports,
directly or not, without docstrings, comments, layout and help texts: a change of logic changes the
digest of exactly the programs that use it, and nothing else does. Nothing is imported for it.
"""

import ast
import functools
import hashlib
from pathlib import Path

_TEXT_ARGUMENTS = {"help", "description"}  # of argparse and progress bars: for people only


def code_digest(module: str, root: Path) -> str:
    """Digest of a module and of its import closure.

    Args:
        module: dotted name, for instance "workflow_scripts.make_masks".
        root: folder that holds the top-level package.

    Returns:
        16 hexadecimal digits.

    Raises:
        FileNotFoundError: there is no such module.
    """
    digest = hashlib.sha256()
    for name in import_closure(module, root):
        digest.update(f"{name}\n{_parsed(_path(name, root))[1]}\n".encode())
    return digest.hexdigest()[:16]


def import_closure(module: str, root: Path) -> list[str]:
    """Names of `module` and of all modules under `root` that it imports, sorted."""
    if _path(module, root) is None:
        raise FileNotFoundError(f"{module}: no such module under {root}")
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imports(_path(name, root), root)
    return sorted(found)


@functools.cache
def _path(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@functools.cache
def _imports(path: Path, root: Path) -> list[str]:
    names = [name for name in _parsed(path)[0] if _path(name, root) is not None]
    # A package's own code runs when one of its modules is imported.
    parents = [
        ".".join(name.split(".")[:i]) for name in names for i in range(1, name.count(".") + 1)
    ]
    return list(dict.fromkeys(names + parents))


@functools.cache
def _parsed(path: Path) -> tuple[list[str], str]:
    """Dotted names of what a module may import, and its logic as text.

    Only these are kept: syntax trees of all modules would slow down every later search for garbage.
    """
    reader = _Reader()
    tree = reader.visit(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
    return [name for name in dict.fromkeys(reader.names) if "." in name], ast.dump(tree)


def _is_dotted_name(value: object) -> bool:
    return isinstance(value, str) and "." in value and all(map(str.isidentifier, value.split(".")))


class _Reader(ast.NodeTransformer):
    """Removes texts for people from a tree, and collects the dotted names in it."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def _without_docstring(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        return node

    visit_Module = visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _without_docstring

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        node.keywords = [word for word in node.keywords if word.arg not in _TEXT_ARGUMENTS]
        return node

    def visit_Import(self, node: ast.Import) -> ast.AST:
        self.names += [alias.name for alias in node.names]
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.module and not node.level:
            self.names.append(node.module)
            self.names += [f"{node.module}.{alias.name}" for alias in node.names]
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        # Engines are named in texts, and imported when they are chosen.
        if _is_dotted_name(node.value):
            self.names.append(node.value)
        return node
