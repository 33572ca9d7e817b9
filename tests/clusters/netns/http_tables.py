"""What becomes of HTTP requests, row by row, from Cilium's documented semantics: written by hand, and never from the model. Requests are
(method, path, host, headers); `''` as host is the address that is dialled."""

from __future__ import annotations

from typing import Any, NamedTuple

from harness.model.traffic import Request, RequestKind


class Table(NamedTuple):
    """HTTP rules, as in a policy, and what passes and what does not."""

    name: str
    rules: list[dict[str, Any]]
    passes: list[Request]
    denied: list[Request]


def http(method: str, path: str, host: str = "", **headers: str) -> Request:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Request(RequestKind.HTTP, method=method, path=path, host=host, headers=named)


TABLES = [
    Table("no field, every request", [{}], [http("GET", "/"), http("DELETE", "/x")], []),
    Table(
        "a path is matched in full, with its query",
        [{"path": "/public"}],
        [http("GET", "/public"), http("POST", "/public")],
        [http("GET", "/public/x"), http("GET", "/public?x=1"), http("GET", "/publi"), http("GET", "/a/public"), http("GET", "/Public")],
    ),
    Table(
        "a pattern ends where it says",
        [{"path": "/public.*"}],
        [http("GET", "/public"), http("GET", "/public/x"), http("GET", "/public?x=1"), http("GET", "/publicity")],
        [http("GET", "/private"), http("GET", "//x/public")],
    ),
    Table(
        "alternatives and classes",
        [{"path": "/v[12]/(users|orders)/[0-9]+"}],
        [http("GET", "/v1/users/7"), http("GET", "/v2/orders/42")],
        [http("GET", "/v3/users/7"), http("GET", "/v1/users/"), http("GET", "/v1/users/x"), http("GET", "/v1/users/7/edit")],
    ),
    Table(
        "paths are normalised before they are matched",
        [{"path": "/public/.*"}],
        [http("GET", "/public/%61"), http("GET", "/x/../public/a"), http("GET", "//public//a"), http("GET", "/public/./a")],
        [http("GET", "/public/../private"), http("GET", "/public/%2e%2e/private"), http("GET", "/public/a/../../private/b")],
    ),
    Table(
        "methods are patterns, matched in full and as written",
        [{"method": "GET|HEAD"}],
        [http("GET", "/"), http("HEAD", "/")],
        [http("POST", "/"), http("OPTIONS", "/"), http("PATCH", "/")],
    ),
    Table(
        "fields of a rule are all needed", [{"method": "PUT", "path": "/x"}], [http("PUT", "/x")], [http("PUT", "/y"), http("GET", "/x")]
    ),
    Table(
        "one rule of several is enough",
        [{"method": "GET", "path": "/a"}, {"method": "POST", "path": "/b"}],
        [http("GET", "/a"), http("POST", "/b")],
        [http("GET", "/b"), http("POST", "/a")],
    ),
    Table(
        "a host is matched in full, its port included",
        [{"host": "api[.]shop[.]io"}],
        [http("GET", "/", "api.shop.io")],
        [http("GET", "/", "api.shop.io:8080"), http("GET", "/", "www.shop.io"), http("GET", "/", "apixshop.io"), http("GET", "/")],
    ),
    Table(
        "a header with a value is compared literally",
        [{"headers": ["X-Key: 42"]}],
        [http("GET", "/", X_Key="42"), http("GET", "/", x_key="42")],
        [http("GET", "/", X_Key="421"), http("GET", "/", X_Key=""), http("GET", "/"), http("GET", "/", X_Other="42")],
    ),
    Table("a value is no pattern", [{"headers": ["X-Key: .*"]}], [http("GET", "/", X_Key=".*")], [http("GET", "/", X_Key="42")]),
    Table("a header without a value has to be there", [{"headers": ["X-Key"]}], [http("GET", "/", X_Key="any")], [http("GET", "/")]),
    Table(
        "without a blank the whole is a name",
        [{"headers": ["X-Key:42"]}],
        [],
        [http("GET", "/", X_Key="42"), http("GET", "/")],
    ),
    Table(
        "every header is needed",
        [{"headers": ["X-One: 1", "X-Two"]}],
        [http("GET", "/", X_One="1", X_Two="2")],
        [http("GET", "/", X_One="1"), http("GET", "/", X_Two="2")],
    ),
    Table(
        "a header match fails where the value differs",
        [{"headerMatches": [{"name": "X-Tenant", "value": "red"}]}],
        [http("GET", "/", X_Tenant="red")],
        [http("GET", "/", X_Tenant="blue"), http("GET", "/")],
    ),
    Table(
        "a header match that logs or rewrites never fails",
        [{"headerMatches": [{"name": "X-Tenant", "value": "red", "mismatch": "LOG"}]}],
        [http("GET", "/", X_Tenant="red"), http("GET", "/", X_Tenant="blue"), http("GET", "/")],
        [],
    ),
    Table(
        "a header match without a value asks for presence",
        [{"path": "/x", "headerMatches": [{"name": "X-Tenant"}]}],
        [http("GET", "/x", X_Tenant="any")],
        [http("GET", "/x"), http("GET", "/y", X_Tenant="any")],
    ),
]
