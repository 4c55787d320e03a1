"""Public names of the package where pages use them: code leads to the reference, and the reference to the pages."""

import ast
import html
import importlib
import pkgutil
import re
from functools import cache

import transfer_nbs
from docutils import nodes

LIB = transfer_nbs.__name__
BLOCK = re.compile(r'<div class="highlight-ipython3.*?</pre>', re.S)
MODULES = [each.name for each in pkgutil.iter_modules(transfer_nbs.__path__) if each.name[0] != "_" and each.name != "all"]
MOST = 8  # pages that the reference lists by title


@cache
def homes(module: str) -> dict[str, str]:
    "The public names in a module with where they are described: those of `all` are at home in others."
    names = importlib.import_module(f"{LIB}.{module}").__all__
    if module != "all": return {name: f"{LIB}.{module}.{name}" for name in names}
    return {name: full for each in MODULES for name, full in homes(each).items() if name in names}


class Names:
    "What the names in the code of a page mean."

    def __init__(self, page: str, sources: list[str]):
        nodes = [node for source in sources for node in ast.walk(parsed(source))]
        self.own = homes(page[3:]) if page[3:] in MODULES else {}
        self.names, self.modules = dict(self.own), {}
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{LIB}."): self.take(node)
            if isinstance(node, ast.ImportFrom) and node.module == LIB:
                self.modules |= {each.asname or each.name: homes(each.name) for each in node.names if each.name in [*MODULES, "all"]}
        for node in nodes:
            if isinstance(node, ast.arg): self.names.pop(node.arg, None)  # here the name is something else
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and not node.id.isupper(): self.names.pop(node.id, None)
        self.used = {self.names.get(node.id) for node in nodes if isinstance(node, ast.Name)}
        self.used |= {self.modules.get(node.value.id, {}).get(node.attr) for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
        self.used -= {None, *self.own.values()}

    def take(self, node: ast.ImportFrom) -> None:
        "Note what `from module import name` brings."
        there = homes(node.module.split(".")[1])
        self.names |= {each.asname or each.name: there[each.name] for each in node.names if each.name in there}


def parsed(source: str) -> ast.Module:
    "Python as a tree; an empty one where the cell is none."
    try: return ast.parse(source)
    except SyntaxError: return ast.Module(body=[], type_ignores=[])


def used_in(pages: dict) -> dict[str, list[str]]:
    "The pages that use each public name, without the one that defines it."
    found = {}
    for page, notebook in pages.items():
        if page == "index": continue
        for full in Names(page, [cell.source for cell in notebook.cells if cell.cell_type == "code"]).used: found.setdefault(full, []).append(page)
    return found


def users(pages: list[str], titles: dict[str, str]) -> str:
    "The line of the reference that leads to the pages which use a name."
    links = [f'<a href="../{page}.html">{page[:2]} {html.escape(titles[page])}</a>' for page in pages[:MOST]]
    more = [f'<a href="../{page}.html" title="{html.escape(titles[page])}">{page[:2]}</a>' for page in pages[MOST:]]
    return f'<p class="explained">Used in: {", ".join(links)}{", and in " + ", ".join(more) if more else ""}</p>'


def link_code(body: str, known: Names, target) -> str:
    "Highlighted code whose public names are links; the keyboard stops at the first of each on a page."
    seen = set()
    aliases = "|".join(known.modules) or "(?!)"
    token = re.compile(rf'(?P<before><span class="n">(?P<module>{aliases})</span><span class="o">\.</span>)<span class="n">(?P<part>\w+)</span>'
                       r'|(?<!<span class="o">\.</span>)<span class="(?:n|nf|nc|ne)">(?P<name>\w+)</span>(?!<span class="o">=</span>)')

    def replace(match):
        full = known.modules[match["module"]].get(match["part"]) if match["module"] else known.names.get(match["name"])
        address = full and target(full)
        if not address: return match[0]
        stop = ' tabindex="-1"' if full in seen else ""
        seen.add(full)
        before = match["before"] or ""
        return f'{before}<a class="name" href="{address}"{stop}>{match[0].removeprefix(before)}</a>'

    return BLOCK.sub(lambda block: token.sub(replace, block[0]), body)


def link_page(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    "Link the code of a page made from a notebook."
    if doctree is None or not (pagename[0].isdigit() or pagename == "index"): return
    blocks = [block.astext() for block in doctree.findall(nodes.literal_block) if block.get("language") == "ipython3"]
    objects = app.env.domains.python_domain.objects

    def target(full: str) -> str | None:
        if full in objects: return f"{app.builder.get_relative_uri(pagename, objects[full].docname)}#{objects[full].node_id}"

    context["body"] = link_code(context["body"], Names(pagename, blocks), target)


def setup(app):
    app.connect("html-page-context", link_page)
