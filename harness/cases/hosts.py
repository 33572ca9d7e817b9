"""What an IP address and a DNS name look like. Only their text; who has them is elsewhere."""

from __future__ import annotations

import ipaddress
import re

DNS_NAME = re.compile(r"[a-z0-9_]([-a-z0-9_]*[a-z0-9])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9])?)+\Z")


def is_dns_name(text: str) -> bool:
    """Whether the text is a DNS name with at least one dot (and no address)."""
    return bool(DNS_NAME.match(text.lower().removesuffix("."))) and not is_address(text)


def is_address(text: str) -> bool:
    """Whether the text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
