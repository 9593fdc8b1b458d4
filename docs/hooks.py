"""Hooks of MkDocs: pages from the root of the repository, links, doctests."""

import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# Files that belong in the root of a repository, and their pages.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
# A link to a file: its text, the file, a heading in it.
_LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#:\s]+)(#[^)\s]*)?\)")
_COMMENT = re.compile(r"  # (.*)")
_DOCTEST = re.compile(r"^( *)>>> .*(?:\n\1\S.*)*", re.MULTILINE)


def on_files(files, config):
    """Add the pages of the root."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text()
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links between files of the repository into links between pages.

    A link to a file that is not on the site, such as a source, becomes its text.
    """
    del config
    of_page = {page: source for source, page in PAGES.items()}
    here = page.file.src_uri
    source = of_page.get(here, posixpath.join("docs", here))

    def replaced(link):
        text, target, heading = link[1], link[2], link[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        inside = PAGES.get(target) or target.removeprefix("docs/")
        if files.get_file_from_path(inside) is None:
            return text.removeprefix("!")[1:-1]
        relative = posixpath.relpath(inside, posixpath.dirname(here) or ".")
        return f"{text}({relative}{heading})"

    return _LINK.sub(replaced, markdown)


def fenced(docstring: str) -> str:
    """Fence doctests as code, since Markdown takes `>>>` for quotations."""
    return _DOCTEST.sub(
        lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", docstring
    )


def fields(cls: griffe.Class) -> str:
    """List the fields of a class with their comments and defaults."""
    lines = []
    for name, attribute in cls.attributes.items():
        public = attribute.annotation is not None and not name.startswith("_")
        if public and attribute.lines and "property" not in attribute.labels:
            parts = _COMMENT.findall(attribute.lines[-1])
            if attribute.value and "field(" not in str(attribute.value):
                parts.append(f"default `{attribute.value}`")
            lines.append(f"  {name}: {'; '.join(parts)}")
    return "\n".join(["", "", "Attributes:", *lines]) if lines else ""


class Docstrings(griffe.Extension):
    """Fence doctests, list fields, and show each name only in its own module."""

    def on_object(self, *, obj, **kwargs):
        del kwargs
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)

    def on_class_members(self, *, cls, **kwargs):
        del kwargs
        if cls.docstring and "Attributes:" not in cls.docstring.value:
            cls.docstring.value += fields(cls)

    def on_module_members(self, *, mod, **kwargs):
        del kwargs
        mod.exports = None  # names imported from elsewhere are shown there
