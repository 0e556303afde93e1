"""Write docs/admin-api.md from the routes of the admin API; ``--check`` fails if it is not what would be written."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "admin-api.md"


def made() -> str:
    """The page."""
    from titans3.admin.door import ROUTES
    from titans3.admin.openapi import page

    return page(ROUTES)


def main() -> int:
    if "--check" in sys.argv[1:]:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != made())
    PAGE.write_text(made(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
