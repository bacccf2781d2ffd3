"""Collect the texts of pages and options into the catalogues, and compile them.

Run it after a text was added or changed; then translate what it lists as missing.
"""

from __future__ import annotations

import sys

from panel.ui.locales.catalogues import collect, compiled, missing, po_path, read_po, write_po


def main() -> int:
    catalogue = read_po("zh")
    catalogue.update(collect(), no_fuzzy_matching=True)
    write_po("zh", catalogue)
    po_path("zh").with_suffix(".mo").write_bytes(compiled(read_po("zh")))
    absent = missing(catalogue)
    for message in absent:
        sys.stdout.write(f"untranslated: {message.id}\n")
    sys.stdout.write(f"{len(catalogue)} texts, {len(absent)} untranslated\n")
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
