"""The tables of docs/paper.md: each item of the paper, and what was measured here."""

from importlib import import_module

from claims import CLAIMS
from pages import table

for _part in ("accuracy", "errors", "spikes", "energy", "networks"):
    import_module(f"claims_{_part}")  # enters its claims

for _section in dict.fromkeys(claim.section for claim in CLAIMS):
    _claims = [claim for claim in CLAIMS if claim.section == _section]
    _files = tuple(dict.fromkeys(file for claim in _claims for file in claim.files))

    @table(f"paper_{_section.lower()}".replace(" ", "_"), *_files)
    def _table(*contents, claims=_claims, files=_files):
        yield "where", "the paper", "here", "verdict"
        stored = dict(zip(files, contents, strict=True))
        for each in claims:
            here, verdict = each.judge(*(stored[file] for file in each.files))
            linked = f"[{verdict}]({each.page})"
            yield each.item, each.says, here, linked
