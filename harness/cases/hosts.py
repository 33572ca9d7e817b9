"""What an IP address and a DNS name look like. Only their text; who has them is elsewhere."""

from __future__ import annotations

import ipaddress
import re

from harness.policy.fqdn import impossible

DNS_NAME = re.compile(r"[a-z0-9_]([-a-z0-9_]*[a-z0-9])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9])?)+\Z")


def is_dns_name(text: str) -> bool:
    """Whether the text is a DNS name with at least one dot (and no address)."""
    return bool(DNS_NAME.match(text.lower().removesuffix("."))) and not is_address(text) and not impossible(text)


def no_dns_name(text: str) -> str:
    """What is wrong with a text that is no DNS name, in words; '' where it does not look like one."""
    if "." not in text or is_address(text):
        return ""
    stray = re.search(r"[^-\w.]|[^\x00-\x7f]", text)
    if stray:
        return f"`{stray[0]}` stands in no name" + (": this is one name, not a pattern" if stray[0] == "*" else "")
    why = impossible(text)
    if why or DNS_NAME.match(text.lower().removesuffix(".")):
        return why
    return "a label begins with a letter or a digit, and ends with one"


def is_address(text: str) -> bool:
    """Whether the text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
