"""The reference pages, taken from the package itself: signatures and errors from its source, meanings from the comments beside the parameters."""

import ast
import importlib
import inspect
import io
import re
import tokenize
from pathlib import Path

import typer
from fastcore.docments import docments

from conf import settings
from names import used_in, users

from transfer_nbs.commands import app

COMMANDS = dict(line.split("=") for line in settings["console_scripts"].split())


def fields(node) -> list[tuple]:
    "Name, type and default of each parameter of a function, or of each field of a dataclass, as they are written."
    if isinstance(node, ast.ClassDef):
        return [(each.target.id, each.annotation, each.value, "") for each in node.body if isinstance(each, ast.AnnAssign)]
    given = node.args
    places = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(places) - len(given.defaults)) + given.defaults
    listed = [(each.arg, each.annotation, value, "") for each, value in zip(places, defaults)]
    if given.vararg: listed.append((given.vararg.arg, given.vararg.annotation, None, "*"))
    elif given.kwonlyargs: listed.append(("", None, None, "*"))
    listed += [(each.arg, each.annotation, value, "") for each, value in zip(given.kwonlyargs, given.kw_defaults)]
    if given.kwarg: listed.append((given.kwarg.arg, given.kwarg.annotation, None, "**"))
    return [each for each in listed if each[0] not in ("self", "cls")]


def written(node) -> str:
    "A piece of source on one line; empty for none."
    return "" if node is None else ast.unparse(node)


def annotation(node) -> str:
    "A type on one line, without the quotes of one that is defined later."
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else written(node)


def signature(node, returns) -> str:
    "A signature as it is written, without the types, which the table has."
    parts = [star + name + (f"={written(default)}" if default is not None else "") for name, _, default, star in fields(node)]
    return f"({', '.join(parts)})" + (f" -> {annotation(returns)}" if returns is not None else "")


def code(text: str) -> str:
    "Text as code in a cell of a table; empty for none."
    return f"`{text}`".replace("|", "\\|") if text else ""


def meaning(text: str | None) -> str:
    "A comment as prose in a cell of a table."
    return (text or "").replace("|", "\\|").replace("<", "\\<").replace("*", "\\*").replace("_", "\\_") if "`" not in (text or "") else text.replace("|", "\\|")


def field_comments(target) -> dict[str, str]:
    "The comments beside the fields of a NamedTuple, which `docments` doesn't see."
    source = inspect.getsource(target)
    tokens = {token.start[0]: token.string.lstrip("# ") for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == tokenize.COMMENT}
    node = next(each for each in ast.parse(source).body if isinstance(each, ast.ClassDef))
    return {name: tokens[kind.lineno] for name, kind, _, _ in fields(node) if kind.lineno in tokens}


def promise(kind: str, module) -> str:
    "What a class of the package says of itself: the meaning of a parameter that is nothing but such a thing."
    target = getattr(module, kind, None)
    return inspect.getdoc(target).splitlines()[0] if inspect.isclass(target) and target.__module__.startswith(settings["lib_name"]) else ""


def parameter_table(node, target) -> list[str]:
    "The table of parameters: name, type, default where any has one, meaning; none where it would say nothing that the signature doesn't."
    comments = field_comments(target) if inspect.isclass(target) and issubclass(target, tuple) else docments(target)
    rows = [(star + name, annotation(kind), written(default), comments.get(name) or promise(annotation(kind), inspect.getmodule(target))) for name, kind, default, star in fields(node) if name]
    if not any(kind or text for _, kind, _, text in rows): rows = []
    returned = getattr(node, "returns", None)
    if returned is not None and comments.get("return"): rows.append(("returns", annotation(returned), "", comments["return"]))
    if not rows: return []
    some = any(default for _, _, default, _ in rows)
    lines = ["", "| parameter | type | default | meaning |" if some else "| parameter | type | meaning |", "|---|---|---|---|" if some else "|---|---|---|"]
    for name, kind, default, text in rows:
        cells = [code(name) if name != "returns" else "*returns*", code(kind), *([code(default)] if some else []), meaning(text)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def errors(node) -> list[str]:
    "What a function raises, with its message: names in braces stand for values."
    found = {}
    for each in ast.walk(node):
        if isinstance(each, ast.Raise) and isinstance(each.exc, ast.Call) and isinstance(each.exc.func, ast.Name) and each.exc.args:
            text = message(each.exc.args[0])
            found[f"`{each.exc.func.id}`" + (f": {text}" if text else "")] = None
    return ["", "**Errors**", "", *(f"- {line}" for line in found)] if found else []


def message(node) -> str:
    "The text of an error as it is written; empty where a variable holds it."
    if isinstance(node, ast.BinOp): return message(node.left)[:-1] + " ...`"
    if isinstance(node, ast.Constant): return f"`{node.value}`"
    if isinstance(node, ast.JoinedStr):
        text = "".join(part.value if isinstance(part, ast.Constant) else "{" + ast.unparse(part.value) + "}" for part in node.values)
        return f"`{text}`" if "`" not in text else f"`` {text} ``"
    return ""


def describe(kind: str, name: str, node, target, init=None) -> list[str]:
    "The entry of a function, a class or a method."
    source = init or node
    shown = signature(source, None if kind == "class" else getattr(node, "returns", None)) if init or not isinstance(node, ast.ClassDef) or fields(node) else "()"
    text = inspect.cleandoc(ast.get_docstring(node) or "")
    return [f"````{{py:{kind}}} {name}{shown}", "", text, *parameter_table(source, target), *errors(source if kind == "class" else node), "````", ""]


def entry(name: str, node, module) -> list[str]:
    "The entry of one public name."
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        given = node.value
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            given = given.elts[[each.id for each in node.targets[0].elts].index(name)]
        value = f"{name} = {written(given)}"
        return [f"````{{py:data}} {name}", "", f"```python\n{value}\n```" if len(value) < 300 else "", "````", ""]
    target = inspect.unwrap(getattr(module, name))
    if isinstance(node, ast.FunctionDef): return describe("function", name, node, target)
    methods = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    lines = describe("class", name, node, target, methods.get("__init__"))
    for each, method in methods.items():
        if ast.get_docstring(method) and each != "__init__" and (each == "__call__" or not each.startswith("_")):
            plain = inspect.getattr_static(target, each)
            lines += describe("method", f"{name}.{each}", method, inspect.unwrap(getattr(plain, "__func__", plain)))
    return lines


def definitions(tree) -> dict:
    "The names that a module defines, and where."
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): found[node.name] = node
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        found |= {name.id: node for target in targets for name in ast.walk(target) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
    return found


def api_pages(
    notebooks: list[Path],  # that export a module each
    shown: dict,  # all pages by name, as notebooks
    titles: dict[str, str],  # of these pages
) -> dict[str, str]:  # name of the page, without ending, and its Markdown
    "A page for each module, and one that lists them."
    pages, listed = {}, []
    used = used_in(shown)
    for path in notebooks:
        name = path.stem.split("_", 1)[1]
        module = importlib.import_module(f"{settings['lib_name']}.{name}")
        found = definitions(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
        lines = [f"# {settings['lib_name']}.{name}", "", module.__doc__, "", f"Explained in [{path.stem[:2]} {titles[path.stem]}](../{path.name}).", "", f"```{{py:module}} {module.__name__}\n```", ""]
        constants = [each for each in module.__all__ if isinstance(found[each], (ast.Assign, ast.AnnAssign))]
        for each in sorted(set(module.__all__) - set(COMMANDS), key=lambda each: (each in constants, module.__all__.index(each))):
            if each not in constants or each == constants[0]: lines += ["", f"## {'Values' if each in constants else each}", ""]
            lines += [*entry(each, found[each], module), f'<p class="explained"><a href="../{path.stem}.html#define-{each}">Where <code>{each}</code> is defined and explained</a></p>', ""]
            if full := used.get(f"{module.__name__}.{each}"): lines += [users(full, titles), ""]
        commands = [each for each in module.__all__ if each in COMMANDS]
        if commands: lines += [f"The command {' and '.join(f'[`{each}`](../commands.md)' for each in commands)} is in this module too.", ""]
        pages[f"api/{name}"] = "\n".join(lines)
        listed.append(f"| [`{module.__name__}`]({name}.md) | {module.__doc__} |")
    tree = "```{toctree}\n:hidden:\n\n" + "\n".join(name.removeprefix("api/") for name in pages) + "\n```"
    shared = importlib.import_module(f"{settings['lib_name']}.all").__all__
    homes = {each: page for page in pages for each in shared if re.search(rf"^````{{py:\w+}} {each}\b", pages[page], re.M)}
    names = ", ".join(f'<a href="{page.removeprefix("api/")}.html#transfer_nbs.{page.removeprefix("api/")}.{each}"><code>{each}</code></a>' for each, page in sorted(homes.items(), key=lambda pair: pair[0].lower()))
    pages["api/index"] = "\n".join(["# API", "", "Every module is made from one page, on which each of its names is explained and tried.", "", "| module | |", "|---|---|", *listed, "",
                                    "## What most people need", "", "All of these are in `transfer_nbs.all`:", "", f"<p>{names}</p>", "", tree])
    return pages


def commands_page() -> str:
    "Every command, from its own description and options."
    lines = ["# Commands", "", "Each explains itself with `--help`; this page is made from the same source. Options may be written with underscores too, "
             "and `python -m transfer_nbs compare` is the same as `transfer_compare`.", ""]
    group = typer.main.get_command(app)
    for name in COMMANDS:
        command = group.commands[name.removeprefix("transfer_")]
        shown = [each for each in command.params if each.name != "version"]
        places = [(each.name.upper() + "..." * (each.nargs != 1), each.required) for each in shown if not each.opts[0].startswith("-")]
        places = [place if required else f"[{place}]" for place, required in places]
        lines += [f"## {name}", "", inspect.cleandoc(command.help), "", "```sh", " ".join([name, *places, "[OPTIONS]"]), "```", ""]
        for each in shown:
            default = "" if each.default in (None, "") or each.default is False else str(each.default).replace(",", ", ")
            if isinstance(each.show_default, str): default = each.show_default
            said = ", ".join(each.opts) if each.opts[0].startswith("-") else each.name.upper()
            lines += [f"`{said}`" + f" [default: `{default}`]{{.default}}" * bool(default), f": {meaning(each.help)}", ""]
    return "\n".join(lines)
