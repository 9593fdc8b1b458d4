"""What MkDocs is told of this repository: pages of its root, links, doctests."""

import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# Files that GitHub looks for in the root, and their pages.
PAGES = {
    "README.md": "guide.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"\]\(([^)#:\s]+)")
_COMMENT = re.compile(r"  # (.*)")
_DOCTEST = re.compile(r"^( *)>>> .*(?:\n\1\S.*)*", re.MULTILINE)


def on_files(files, config):
    """Adds the pages of the root."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text()
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links as they are on GitHub become links of the site, or to GitHub."""
    del files
    of_page = {page: source for source, page in PAGES.items()}
    here = page.file.src_uri
    source = of_page.get(here, posixpath.join("docs", here))

    def replaced(link):
        target = posixpath.join(posixpath.dirname(source), link[1])
        target = posixpath.normpath(target)
        inside = PAGES.get(target) or target.removeprefix("docs/")
        if inside == target:
            return f"]({config.repo_url}/blob/main/{target}"
        return f"]({posixpath.relpath(inside, posixpath.dirname(here) or '.')}"

    return _LINK.sub(replaced, markdown)


def fenced(docstring: str) -> str:
    """Doctests as blocks of code; Markdown takes `>>>` for quotations."""
    return _DOCTEST.sub(
        lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", docstring
    )


def fields(cls: griffe.Class) -> str:
    """A section on the fields of a class, as their comments and defaults have it."""
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
    """Fences doctests; lists fields; and each name in its own module only."""

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
        mod.exports = None  # what `__all__` takes from elsewhere is shown there
