"""A digest of the logic that a program depends on.

It covers the syntax trees of the program and of every module of this project that it imports,
directly or not, without docstrings, comments, layout and help texts. So a change of logic changes
the digests of exactly the programs that use it, and no other change does. If one of these modules
names a file of the repository by its whole path, such as a template, the digest covers the content
of that file, too. Modules are parsed, not imported.
"""

import ast
import functools
import hashlib
import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

_IMPORT = re.compile(r"^from workflow_scripts[\w.]* import (?:\([^)]*\)|.*)$", re.MULTILINE)
_FILE_NAME = re.compile(r"\w[\w.-]*(?:/[\w.-]+)+\.(?!py$)\w+")
_TEXT_ARGUMENTS = {"help", "description"}  # of argparse and progress bars: for people only


def code_digest(module: str, root: Path) -> str:
    """Digest of a module and of all modules of this project that it imports, directly or not.

    Args:
        module: dotted name, for instance "workflow_scripts.make_masks".
        root: folder that holds the top-level package.

    Returns:
        16 hexadecimal digits.

    Raises:
        FileNotFoundError: there is no such module.
    """
    digest = hashlib.sha256()
    resources: set[Path] = set()
    for name in import_closure(module, root):
        parsed = _parsed(_path(name, root))
        digest.update(f"{name}\n{parsed.logic}\n".encode())
        resources.update(path for file in parsed.files if (path := root / file).is_file())
    for path in sorted(resources):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def rules_digest(root: Path) -> str:
    """Digest of the rules under `root` and of the modules that they import, without comments."""
    digest = hashlib.sha256()
    modules: set[str] = set()
    for path in [root / "Snakefile", *sorted((root / "rules").glob("*.smk"))]:
        text = path.read_text(encoding="utf-8")
        words = [
            token.string
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type not in (tokenize.COMMENT, tokenize.NL)
        ]
        digest.update(f"{path.name}\n{words}\n".encode())
        for statement in _IMPORT.findall(text):
            reader = _Reader()
            reader.visit(ast.parse(statement))
            modules.update(name for name in reader.names if _path(name, root) is not None)
    closure = {found for module in modules for found in import_closure(module, root)}
    for name in sorted(closure):
        digest.update(f"{name}\n{_parsed(_path(name, root)).logic}\n".encode())
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
    names = [name for name in _parsed(path).names if _path(name, root) is not None]
    # A package's own code runs when one of its modules is imported.
    parents = [
        ".".join(name.split(".")[:i]) for name in names for i in range(1, name.count(".") + 1)
    ]
    return list(dict.fromkeys(names + parents))


class _Parsed(NamedTuple):
    """What the digest needs of a module."""

    names: list[str]  # dotted names of modules that it may import
    files: list[str]  # paths that may be files of the repository
    logic: str  # its syntax tree as text


@functools.cache
def _parsed(path: Path) -> _Parsed:
    """Names, files and logic of a module.

    The syntax tree is not kept: the objects of all trees would slow down garbage collection.
    """
    reader = _Reader()
    tree = reader.visit(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
    names = [name for name in dict.fromkeys(reader.names) if "." in name]
    return _Parsed(names, reader.files, ast.dump(tree))


def _is_dotted_name(value: object) -> bool:
    return isinstance(value, str) and "." in value and all(map(str.isidentifier, value.split(".")))


class _Reader(ast.NodeTransformer):
    """Removes docstrings and help texts from a tree, and collects names of modules and files."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.files: list[str] = []

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
        # Some modules, such as the engines of Mask R-CNN, are named in strings and imported later.
        if _is_dotted_name(node.value):
            self.names.append(node.value)
        elif isinstance(node.value, str) and _FILE_NAME.fullmatch(node.value):
            self.files.append(node.value)
        return node
