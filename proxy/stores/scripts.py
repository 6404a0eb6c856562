"""Lua scripts for Redis: each its text, and the name that Redis has for it."""

import hashlib
from pathlib import Path
from typing import NamedTuple


class Script(NamedTuple):
    text: bytes
    sha: bytes

    @classmethod
    def read(cls, folder: Path, *names: str) -> "Script":
        """One script of these files, in order."""
        text = b"".join((folder / f"{name}.lua").read_bytes() for name in names)
        return cls(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())
