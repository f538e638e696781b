"""One type for (width, height), `ImageSize`; a bare pair of integers is (H, W), and says so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from sfda_engine.data.images import ImageSize, stated
from tests.project.test_imports import ENGINE, EXPORT

PAIR = re.compile(r"\btuple\[int, int\]")
ROWS_FIRST = re.compile(r"\((H, W|h, w|height, width)\)")
NAMES = re.compile(r"size|crop|frame|window|grid|training|stated")


def bare_pairs() -> Iterator[str]:
    """Arguments and fields that may be a size, are typed as a pair, and told of by no docstring as (H, W)."""
    for path in sorted([*ENGINE.rglob("*.py"), *EXPORT.rglob("*.py")]):
        if path.parent.name == "config":  # what YAML says: [width, height]
            continue
        tree = ast.parse(path.read_text())
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        owners = {id(method): one for one in classes for method in one.body}  # a constructor is told of by its class
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                said = [ast.get_docstring(one) or "" for one in (node, owners.get(id(node))) if one is not None]
                for name, annotation in annotated(node):
                    bare = NAMES.search(name) and PAIR.search(ast.unparse(annotation))
                    if bare and not any(map(ROWS_FIRST.search, said)):
                        yield f"{path.name}: {node.name}({name})"


def annotated(node: ast.FunctionDef | ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.FunctionDef):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        yield from ((one.arg, one.annotation) for one in arguments if one.annotation is not None)
    else:
        fields = (one for one in node.body if isinstance(one, ast.AnnAssign))
        yield from ((one.target.id, one.annotation) for one in fields if isinstance(one.target, ast.Name))


def test_a_bare_pair_is_rows_first_and_says_so() -> None:
    assert list(bare_pairs()) == []


def test_a_size_knows_both_orders() -> None:
    size = ImageSize(64, 32)
    assert (size.width, size.height, size.hw, tuple(size)) == (64, 32, (32, 64), (64, 32))
    assert stated((64, 32)) == size
    assert stated(None) is None
