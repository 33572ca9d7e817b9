"""What YAML makes of a plain scalar, as Kubernetes' own tools read it. Only where types matter: labels are text as written."""

from __future__ import annotations

import re

NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"))
_FALSE = frozenset(("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"))
_INT = re.compile(r"[-+]?(?:0b[01_]+|0[xX][0-9a-fA-F_]+|0[oO]?[0-7_]*|[1-9][0-9_]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL = {
    ".inf": float("inf"), ".Inf": float("inf"), ".INF": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"),
    ".nan": float("nan"), ".NaN": float("nan"), ".NAN": float("nan"),
}  # fmt: skip


def typed(text: str) -> bool | int | float | str | None:
    """A plain scalar as go-yaml v2 resolves it (sigs.k8s.io/yaml, which kubectl uses): YAML 1.1 without base 60 and dates."""
    if not text or text[0] not in "0123456789+-.~nNtTyYoOfF":
        return str(text) or None
    if text in NULLS:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INT.match(text):
        digits = text.replace("_", "").lower()
        unsigned = digits.lstrip("+-")
        if len(unsigned) > 1 and unsigned[0] == "0" and unsigned[1].isdigit():
            digits = digits.replace("0", "0o", 1)
        try:
            return int(digits, 0)
        except ValueError:
            return str(text)
    if _FLOAT.match(text):
        return float(text)
    return _SPECIAL.get(text, str(text))
