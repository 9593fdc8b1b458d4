"""The tables of docs/paper.md: each item of the paper, and what was measured here."""

import claims_accuracy  # noqa: F401  Importing them enters their claims.
import claims_energy  # noqa: F401
import claims_errors  # noqa: F401
import claims_networks  # noqa: F401
import claims_spikes  # noqa: F401
from claims import CLAIMS
from pages import table

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
