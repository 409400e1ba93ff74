from __future__ import annotations

from tests.fixtures.installed import site

__all__ = ["site"]
