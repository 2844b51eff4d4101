"""The API key of a server. It is never shown or stored, and reaches another process through a pipe only."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tasks.errors import ParamsError

_VISIBLE = re.compile(r"[!-~]{1,8192}")


class ApiKey:
    """``secret`` is what the server is sent; no other text of this object, its ``repr`` included, has it."""

    __slots__ = ("secret",)

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __repr__(self) -> str:
        return "ApiKey(...)"

    @classmethod
    def checked(cls, text: str, source: str) -> ApiKey:
        """Take the key from ``text``, without white space around it.

        Raises:
            ParamsError: empty, or not fit for a header. The message names ``source``, never the key.
        """
        key = text.strip()
        if not key:
            raise ParamsError([f"{source}: holds no API key"])
        if not _VISIBLE.fullmatch(key):
            raise ParamsError([f"{source}: an API key is one line of visible ASCII characters without spaces"])
        return cls(key)

    @classmethod
    def of_variable(cls, name: str) -> ApiKey:
        """Read the key from the environment variable ``name``.

        Raises:
            ParamsError: it is not set, or holds none. ``name`` is not repeated: it may be the key, given by mistake.
        """
        if name not in os.environ:
            raise ParamsError(["--api-key-env: there is no environment variable of the name that was given"])
        return cls.checked(os.environ[name], f"--api-key-env: {name}")

    @classmethod
    def of_file(cls, file: Path) -> ApiKey:
        """Read the key from ``file``, which holds nothing else.

        Raises:
            ParamsError: it cannot be read, or holds none.
        """
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise ParamsError([f"--api-key-file: the file that was given cannot be read: {reason}"]) from None
        return cls.checked(text, f"--api-key-file: {file}")
