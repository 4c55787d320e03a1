"""Which code of a page stands folded behind a line that says what it is, and what this line says."""

import ast
import re

from reference import definitions

EXPLAINED = "014"  # parts of the book whose pages are about the code on them: the course and the questions
LONG, SHORT = 40, 3  # lines of exported code from which it is folded: on such pages, and elsewhere


def only_imports(tree) -> bool:
    "Whether a cell is nothing but imports."
    return all(isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body)


def count_checks(tree) -> int:
    "How often a cell asserts something or calls a function of `fastcore.test`."
    return sum(isinstance(node, ast.Assert) or isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("test")
               for node in ast.walk(tree))


def promise(node) -> str:
    "The first sentence of a docstring, as it goes on after a colon; empty without one."
    text = isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node)
    if not text: return ""
    sentence = re.split(r"[.:]\s", " ".join(text.split("\n\n")[0].split()))[0].rstrip(".")
    return sentence if sentence[1:2].isupper() else sentence[0].lower() + sentence[1:]


def introduce(tree) -> str:
    "The names that a cell defines, and what the first is for: functions and classes, or values where there are none."
    found = definitions(tree)
    made = {name: node for name, node in found.items() if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names = sorted(made or found, key=lambda name: (not promise(found[name]), name.startswith("_")))
    listed = ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
    said = promise(found[names[0]])
    return f"{listed}: {said}" if said else listed


def fold(
    source: str,
    said: list[str],  # the `#|` lines of the cell
    *,
    drawn: bool,  # whether it shows figures
    shown: bool,  # whether it shows anything
    part: str,  # of the book
) -> str:  # empty for code that stands open
    "What the line says behind which the code of a cell is folded."
    tree, lines = ast.parse(source), source.count("\n") + 1
    checks, explained = count_checks(tree), part in EXPLAINED
    exported = any(text.split()[0] in ("export", "exports") for text in said)
    if "solution" in said: return "A solution"
    if only_imports(tree): return ("Imports of the module" if exported else "Imports") if lines > 6 else ""
    if exported: return introduce(tree) if lines > (LONG if explained else SHORT) else ""
    if drawn: return "" if checks else "The code of this figure"
    if shown or explained or not checks: return ""
    return f"{checks} checks, all passed" if checks > 1 else "1 check, passed"
