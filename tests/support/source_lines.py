"""What the lines of a module are: code, and kinds of it, or docstrings."""

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator

_NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip


def lines_of_docstrings(source: str) -> set[int]:
    """Numbers of the lines of all docstrings, those of attributes too."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.update(range(node.lineno, (node.end_lineno or 0) + 1))
    return lines


def lines_of_code(source: str) -> set[int]:
    """Numbers of the lines that hold code: no comment, no docstring, not blank."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - lines_of_docstrings(source)


def kinds_of_lines(source: str) -> Counter[str]:
    """How many lines of a module are of which kind; each line counts once, as the first that fits.

    `imports`, `errors` (what is raised), `signatures` (with decorators), `declarations` (fields of
    classes, tables and constants of modules), `statements`, and `docstrings`.
    """
    counts, left = Counter[str](), lines_of_code(source)
    for kind, first, last in sorted(_spans(ast.parse(source)), key=lambda span: _ORDER[span[0]]):
        taken = left.intersection(range(first, last + 1))
        counts[kind] += len(taken)
        left -= taken
    counts["statements"] = len(left)
    counts["docstrings"] = len(lines_of_docstrings(source))
    return counts


_ORDER = {"imports": 0, "errors": 1, "signatures": 2, "declarations": 3}


def _spans(tree: ast.Module) -> Iterator[tuple[str, int, int]]:
    """Kind, first and last line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield "imports", node.lineno, node.end_lineno or 0
        elif isinstance(node, ast.Raise):
            yield "errors", node.lineno, node.end_lineno or 0
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            yield "signatures", first, node.body[0].lineno - 1
        elif isinstance(node, ast.Module | ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.Assign | ast.AnnAssign):
                    yield "declarations", inner.lineno, inner.end_lineno or 0
