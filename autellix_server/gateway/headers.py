"""Which headers go on with a request or an answer, and which end at the gateway. Pure."""

from __future__ import annotations

from aiohttp import hdrs
from multidict import CIMultiDict, CIMultiDictProxy

from autellix_sdk.wire import BILL_HEADER, STAMP_HEADER
from autellix_server.stamp import ENDED_HEADER

CREDENTIALS = ("authorization", "x-api-key", "api-key")
"""Headers in which clients send their key, the first one present counts. Lower case."""

TRACE_HEADER = "traceparent"
"""Header with the client's trace context."""

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
NOT_FOR_THE_ENGINE = HOP_BY_HOP | {
    "host",
    "content-length",
    "expect",
    *CREDENTIALS,
    BILL_HEADER,
    STAMP_HEADER,
    ENDED_HEADER,
}
"""Request headers that end here: per connection, the client's credentials, and stamps that are not ours."""

NEVER_ADDED = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)
"""Headers that aiohttp's client would add where the original request has none."""


def forwarded(headers: CIMultiDictProxy[str], left_out: frozenset[str] | set[str]) -> CIMultiDict[str]:
    """Return the end-to-end headers, in order and with repetitions, but for those `left_out` (lower case)."""
    for nominated in headers.getall(hdrs.CONNECTION, ()):
        left_out = {*left_out, *(name.strip().lower() for name in nominated.split(","))}
    kept: CIMultiDict[str] = CIMultiDict()
    spelling: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower not in left_out:
            # aiohttp's client loses all but the last of repeated headers that differ in case.
            kept.add(spelling.setdefault(lower, name), value)
    return kept
