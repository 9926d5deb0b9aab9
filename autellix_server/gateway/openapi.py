"""The gateway's own endpoints as a table, from which both its routes and its OpenAPI document are made."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from autellix_server.gateway.replies import ErrorBody

PATH = "/openapi.json"

_JSON = "application/json"
_REFERENCES = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"\{(\w+)\}")

_DESCRIPTION = """The endpoints of the gateway itself. Everything under `/v1` is passed through to an engine and back, \
and is what that engine documents: chat completions, completions, responses, messages, embeddings, models and so on, \
with a time bill on calls that run the model. Errors of the gateway have one shape everywhere."""

_ERRORS = {
    400: "The request is malformed; the message says where.",
    401: "The request has no API key that is good.",
    403: "The request names a host, or comes from a web page, that is not allowed.",
    404: "There is no such thing, or it is forgotten.",
    408: "The request stopped coming in the middle.",
    413: "The body is too large.",
    415: "The body is not declared as application/json.",
    417: "The header Expect asks for something else than 100-continue.",
    429: "The tenant is over one of its limits.",
    431: "The head of the request is too large.",
    503: "Nobody can answer now.",
}
"""What the gateway refuses requests with."""

_ALWAYS = (400, 403, 408, 417, 431, 503)
"""Refusals of any request: as HTTP, by who asks, and by a gateway that goes or has too many connections."""

_RETRY_LATER = frozenset({429, 503})
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "xApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "api-key"},
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint: its route, and what the document says of it. The first line of the handler's docstring is shown.

    Attributes:
        method, path, handler: as aiohttp takes them.
        reply: type of the reply, anything that pydantic has a schema for.
        status: of the reply.
        media: content type of the reply, without parameters.
        body: model of the request's body; `None`: it is not read.
        query: model of the request's query; `None`: it is not read.
        errors: statuses that it refuses requests with, beside those that follow from all the others.
        keyed: it needs an API key where tenants have any.
    """

    method: str
    path: str
    handler: Handler
    reply: Any
    status: int = 200
    media: str = _JSON
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    errors: tuple[int, ...] = ()
    keyed: bool = False

    def route(self) -> web.RouteDef:
        """Return its route."""
        return web.route(self.method, self.path, self.handler)

    @property
    def types(self) -> Iterator[tuple[Any, JsonSchemaMode]]:
        """What it reads and writes."""
        yield self.reply, "serialization"
        for model in filter(None, (self.body, self.query)):
            yield model, "validation"


class OpenApi:
    """Routes of endpoints, and of the document about them.

    Args:
        endpoints: of one application.
        keyed: returns whether tenants need keys now.
    """

    def __init__(self, endpoints: Iterable[Endpoint], keyed: Callable[[], bool]) -> None:
        self.endpoints = (*endpoints, Endpoint(hdrs.METH_GET, PATH, self.get, dict[str, Any]))
        self._keyed = keyed
        self._text = cache(lambda keyed: json.dumps(document(self.endpoints, keyed=keyed)))

    def routes(self) -> Iterator[web.RouteDef]:
        """Return the routes."""
        return (endpoint.route() for endpoint in self.endpoints)

    async def get(self, request: web.Request) -> web.Response:
        """Return this document."""
        return web.Response(text=self._text(self._keyed()), content_type=_JSON)


def document(endpoints: Iterable[Endpoint], *, keyed: bool) -> dict[str, Any]:
    """Return the OpenAPI document of endpoints.

    Args:
        endpoints: no two with the same method and path.
        keyed: tenants need keys.
    """
    endpoints = tuple(endpoints)
    written: tuple[Any, JsonSchemaMode] = (ErrorBody, "serialization")
    types = dict.fromkeys((written, *(pair for one in endpoints for pair in one.types)))
    schemas, definitions = TypeAdapter.json_schemas(
        [(type_, mode, TypeAdapter(type_)) for type_, mode in types], ref_template=_REFERENCES
    )
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas, definitions["$defs"], keyed)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Autellix gateway", "version": version("autellix"), "description": _DESCRIPTION},
        "paths": paths,
        "components": {"schemas": definitions["$defs"], **({"securitySchemes": _SECURITY} if keyed else {})},
    }


def _operation(one: Endpoint, schemas: Any, definitions: dict[str, Any], keyed: bool) -> dict[str, Any]:
    posts, asked = one.method == hdrs.METH_POST, keyed and one.keyed
    statuses = {*_ALWAYS, *one.errors, *((401,) if asked else ()), *((415,) if posts else ())}
    statuses |= {413} if one.body is not None else set()
    error = schemas[ErrorBody, "serialization"]
    replies = {
        one.status: {"description": "Done.", "content": {one.media: {"schema": schemas[one.reply, "serialization"]}}}
    }
    replies |= {status: _refusal(status, error) for status in sorted(statuses)}
    body = {} if one.body is None else schemas[one.body, "validation"]
    return {
        "operationId": "_".join((one.method.lower(), *re.findall(r"\w+", one.path))),
        "summary": (inspect.getdoc(one.handler) or "").partition("\n")[0],
        "parameters": [*_in_path(one.path), *_in_query(one, schemas, definitions)],
        **({"requestBody": {"required": True, "content": {_JSON: {"schema": body}}}} if posts else {}),
        "responses": {str(status): reply for status, reply in replies.items()},
        **({"security": [{name: []} for name in _SECURITY]} if asked else {}),
    }


def _refusal(status: int, error: Any) -> dict[str, Any]:
    said = {"description": _ERRORS[status], "content": {_JSON: {"schema": error}}}
    if status not in _RETRY_LATER:
        return said
    seconds = {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer", "minimum": 1}}
    return {**said, "headers": {hdrs.RETRY_AFTER: seconds}}


def _in_path(path: str) -> Iterator[dict[str, Any]]:
    for name in _PARAMETER.findall(path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _in_query(one: Endpoint, schemas: Any, definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if one.query is None:
        return
    schema = definitions[schemas[one.query, "validation"]["$ref"].rpartition("/")[2]]
    for name, said in schema["properties"].items():
        yield {"name": name, "in": "query", "required": False, "schema": said}
