"""Taking secrets out of what goes into a bug report: values under telling names, private keys, credentials in text.

Pure. Rather too much than too little: a field named `key` may hold a record's key, so it goes as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

REDACTED: Final = "[redacted]"

_NAME: Final = (
    r"(?:[\w.-]*(?:passwords?|passwd|passphrase|secrets?|tokens?|credentials?|authorization|cookie|api[_-]?keys?"
    r"|private[_-]?keys?|key[_.-]?(?:pem|data|file|contents?))[\w.-]*|(?:[\w.-]*[_.-])?(?:key|pwd))"
)
_SECRET_NAME: Final = re.compile(_NAME, re.IGNORECASE)
_VALUE: Final = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|(?:bearer|basic)\s+[^\s,;&}\])]+|[^\s,;&}\])"']+)"""
_ASSIGNMENT: Final = re.compile(
    rf"""(?P<start>(?<![\w.-])(?P<quote>\\?["']?){_NAME}(?P=quote)\s*[=:]\s*)(?P<value>{_VALUE})""", re.IGNORECASE
)
_BEARER: Final = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE)
_URL_PASSWORD: Final = re.compile(r"(?P<start>\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)", re.IGNORECASE)
_BEGIN, _END = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----", r"-----END [A-Z0-9 ]*PRIVATE KEY-----"
_PRIVATE_KEY: Final = re.compile(rf"{_BEGIN}.*?(?:{_END}|\Z)", re.DOTALL)
_PRIVATE_KEY_REST: Final = re.compile(rf"\A.*?{_END}", re.DOTALL)


def is_secret_name(name: str) -> bool:
    """Whether a value of that name must not be shown."""
    return _SECRET_NAME.fullmatch(name) is not None


def redact(value: Any) -> Any:
    """A document without its secrets; bytes become hexadecimal."""
    if isinstance(value, Mapping):
        return {
            str(name): REDACTED if is_secret_name(str(name)) and part not in (None, "") else redact(part)
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(part) for part in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        return redact_text(value)
    return value


def redact_text(text: str) -> str:
    """Text without private keys, `name=value` of telling names, bearer tokens, and passwords in addresses."""
    text = _PRIVATE_KEY.sub(REDACTED, text)
    text = _PRIVATE_KEY_REST.sub(REDACTED, text)
    text = _URL_PASSWORD.sub(rf"\g<start>{REDACTED}", text)
    text = _ASSIGNMENT.sub(rf"\g<start>{REDACTED}", text)
    return _BEARER.sub(rf"\1 {REDACTED}", text)


def redact_log(text: str) -> str:
    """A log: lines that are JSON objects by their fields, others as text."""
    text = _PRIVATE_KEY_REST.sub(REDACTED, _PRIVATE_KEY.sub(REDACTED, text))
    return "".join(f"{_redact_line(line)}\n" for line in text.splitlines())


def _redact_line(line: str) -> str:
    if line.lstrip().startswith("{"):
        try:
            return json.dumps(redact(json.loads(line)), ensure_ascii=False)
        except ValueError:
            return redact_text(line)
    return redact_text(line)
