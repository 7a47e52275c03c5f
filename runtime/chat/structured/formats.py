"""The formats of strings in JSON schemas that are enforced, as patterns.

A format that is not in a table is refused. Dates exist, times have no leap second, and durations have no fractions, so
that every parser takes them.

Sources: JSON Schema 2020-12, Validation, 7.3; RFC 3339; the names of OpenAPI and of pydantic's schemas.
"""

from __future__ import annotations

_YEAR = r"(?:[1-9][0-9]{3}|0(?:[1-9][0-9]{2}|0[1-9][0-9]|00[1-9]))"
_FOURTH = r"(?:0[48]|[2468][048]|[13579][26])"
_LEAP_YEAR = rf"(?:[0-9]{{2}}{_FOURTH}|{_FOURTH}00)"
_LONG = r"(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
_SHORT = r"(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_FEBRUARY = r"02-(?:0[1-9]|1[0-9]|2[0-8])"
_DATE = rf"(?:{_YEAR}-(?:{_LONG}|{_SHORT}|{_FEBRUARY})|{_LEAP_YEAR}-02-29)"
_OFFSET = r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_TIME = rf"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{{1,6}})?{_OFFSET}"
_N = r"[0-9]{1,4}"
_DURATION_DATE = rf"(?:{_N}Y(?:{_N}M(?:{_N}D)?)?|{_N}M(?:{_N}D)?|{_N}D)"
_DURATION_TIME = rf"T(?:{_N}H(?:{_N}M(?:{_N}S)?)?|{_N}M(?:{_N}S)?|{_N}S)"
_LABEL = r"[a-z0-9](?:[a-z0-9]{0,30}|[a-z0-9]{0,14}-[a-z0-9]{1,14})"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"


_H = r"[0-9a-f]{1,4}"
_GAPS = "|".join(rf"(?:{_H}:){{1,{7 - n}}}(?::{_H}){{1,{n}}}" for n in range(1, 7))
_PCHAR = r"(?:[A-Za-z0-9._~!\$&'\(\)*+,;=:@-]|%[0-9A-F]{2})"
_PATH = rf"(?:\/{_PCHAR}*)*"
_HOST = rf"(?:{_LABEL}\.){{0,5}}{_LABEL}"


def _uuid(version: str = "[0-9a-f]") -> str:
    return rf"[0-9a-f]{{8}}-[0-9a-f]{{4}}-{version}[0-9a-f]{{3}}-{'[89ab]' if len(version) == 1 else '[0-9a-f]'}[0-9a-f]{{3}}-[0-9a-f]{{12}}"  # noqa: E501


def _base64(alphabet: str) -> str:
    return rf"(?:{alphabet}{{4}})*(?:{alphabet}[AQgw]==|{alphabet}{{2}}[AEIMQUYcgkosw048]=)?"


# Each matches the whole string.
PATTERNS = {
    "date": _DATE,
    "date-time": rf"{_DATE}T{_TIME}",
    "time": _TIME,
    "duration": rf"P(?:{_N}W|{_DURATION_DATE}(?:{_DURATION_TIME})?|{_DURATION_TIME})",
    "uuid": _uuid(),
    **{f"uuid{version}": _uuid(version) for version in "1345678"},
    "email": rf"[A-Za-z0-9]{{1,30}}(?:[._+-][A-Za-z0-9]{{1,10}}){{0,3}}@(?:{_LABEL}\.){{1,4}}[a-z]{{2,12}}",
    "hostname": _HOST,
    "ipv4": rf"(?:{_OCTET}\.){{3}}{_OCTET}",
    "ipv6": rf"(?:{_H}:){{7}}{_H}|(?:{_H}:){{1,7}}:|{_GAPS}|:(?:(?::{_H}){{1,7}}|:)",
    "uri": (
        rf"[a-z][a-z0-9+.-]{{1,15}}:(?:\/\/{_HOST}(?::[0-9]{{1,4}})?{_PATH}|{_PCHAR}+{_PATH})"
        rf"(?:\?(?:{_PCHAR}|[\/?])*)?(?:#(?:{_PCHAR}|[\/?])*)?"
    ),
    "byte": _base64(r"[A-Za-z0-9+\/]"),
    "base64": _base64(r"[A-Za-z0-9+\/]"),
    "base64url": _base64("[A-Za-z0-9_-]"),
    "json-pointer": r"(?:\/(?:[^~\/\x00-\x1f]|~[01])*)*",
    "ipvanyaddress": rf"(?:{_OCTET}\.){{3}}{_OCTET}",
}
# They say how a string is used, and any string is one.
ANY_STRING = {"password", "binary", "path", "file-path", "directory-path", "multi-line", "textarea", "unknown"}
# OpenAPI's formats of numbers: the lowest and highest; None: not limited.
NUMBERS: dict[str, tuple[int, int] | None] = {
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": None,
    "float": None,
    "double": None,
    "decimal": None,
}
