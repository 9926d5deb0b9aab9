"""The OpenAPI document: every endpoint is in it, and the gateway does what it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
import schemathesis
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from fake_engine import CHAT, Gateway, identity
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig
from served import served

from autellix_server.gateway.app import Apps, make_apps
from autellix_server.gateway.gateway import Gateway as TheGateway
from autellix_server.gateway.openapi import PATH
from autellix_server.gateway.settings import ServeSettings
from autellix_server.gateway.tenants.keys import digest_of, new_key

KEY = new_key()
KEYS = {"AUTELLIX_KEYS": f"acme:{digest_of(KEY).hex()}"}
BEARER = {"Authorization": f"Bearer {KEY}"}
PASSED_THROUGH = {"/v1/models", "/v1/{path}"}
FOR_OPERATORS = {"/metrics", "/autellix/v1/engines"}
EXAMPLES = settings(
    max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def apps(environ: Mapping[str, str], **options: Any) -> Apps:
    """Return the applications of a gateway that does not run."""
    return make_apps(TheGateway(ServeSettings(**options), environ=environ))


def document_of(app: web.Application) -> dict[str, Any]:
    """Return the document that an application serves."""
    (route,) = (one for one in own_routes(app) if one.resource.canonical == PATH)  # type: ignore[union-attr]
    reply = asyncio.run(route.handler(make_mocked_request("GET", PATH)))  # type: ignore[arg-type]
    assert isinstance(reply, web.Response)
    assert reply.text is not None
    return json.loads(reply.text)


def own_routes(app: web.Application) -> Iterator[web.AbstractRoute]:
    """Return the routes of an application that it serves itself, without the ``HEAD`` that comes with each ``GET``."""
    for route in app.router.routes():
        if route.resource is not None and route.resource.canonical not in PASSED_THROUGH and route.method != "HEAD":
            yield route


def described(environ: Mapping[str, str]) -> Any:
    """Return the document of the main application, as Schemathesis has it."""
    config = SchemathesisConfig(seed=7)
    config.projects.default.generation.deterministic = True
    return schemathesis.openapi.from_dict(document_of(apps(environ).main), config=config)


def knowing_a_program(gateway: Gateway, headers: Mapping[str, str]) -> Gateway:
    """Have a gateway run a call of the program ``p``."""
    reply = httpx.post(gateway.url + "/v1/chat/completions", json=CHAT, headers={**identity("p"), **headers})
    assert reply.status_code == 200
    return gateway


def check(case: schemathesis.Case, gateway: Gateway, headers: dict[str, str] | None = None) -> None:
    """Make a request, and the same one again with a program or an engine that is there."""
    # A program may be called `end`, and then GET shows it.
    unlisted = [CHECKS.get_one("allow_header_conformance")] if case.path.endswith("/end") else []
    case.call_and_validate(base_url=gateway.url, headers=headers, excluded_checks=unlisted)
    for name, known in {"id": "p", "name": "e0"}.items():
        if name in (case.path_parameters or {}):
            case.path_parameters[name] = known
            # What was wrong with the request may have been that very name.
            mended = [CHECKS.get_one("negative_data_rejection")]
            case.call_and_validate(base_url=gateway.url, headers=headers, excluded_checks=mended)


without_keys, with_keys = described({}), described(KEYS)


@pytest.fixture(scope="module")
def open_gateway() -> Iterator[Gateway]:
    """A gateway for everybody on this machine, operators included."""
    with served() as (gateway, _):
        yield knowing_a_program(gateway, {})


@pytest.fixture(scope="module")
def keyed_gateway() -> Iterator[Gateway]:
    """A gateway for tenants."""
    with served(environ=KEYS) as (gateway, _):
        yield knowing_a_program(gateway, BEARER)


@without_keys.parametrize()
@EXAMPLES
def test_the_gateway_does_what_its_document_says(open_gateway: Gateway, case: schemathesis.Case) -> None:
    """Whatever is asked: statuses, types, headers and bodies of answers, and methods that are not there."""
    check(case, open_gateway)


@with_keys.include(path_regex="programs").parametrize()
@EXAMPLES
def test_keys_are_asked_for_where_the_document_says(keyed_gateway: Gateway, case: schemathesis.Case) -> None:
    """And with one, tenants are served as everybody is without."""
    check(case, keyed_gateway, BEARER)


@pytest.mark.parametrize("options", [{}, {"admin_port": 0}, {"host": "0.0.0.0"}])
@pytest.mark.parametrize("environ", [{}, KEYS])
def test_every_route_is_in_the_document_and_no_other(options: dict[str, Any], environ: dict[str, str]) -> None:
    """Of each of the two applications."""
    made = apps(environ, **options)
    for app in filter(None, (made.main, made.admin)):
        routes = {(route.method.lower(), route.resource.canonical) for route in own_routes(app) if route.resource}
        paths = document_of(app)["paths"]
        assert routes == {(method, path) for path, methods in paths.items() for method in methods}


def test_operators_endpoints_are_described_to_operators() -> None:
    """Where they are served: on their own port, which has no need of keys; tenants need not know of them."""
    made = apps(KEYS, admin_port=0)
    assert made.admin is not None
    main, admin = document_of(made.main), document_of(made.admin)
    assert FOR_OPERATORS.isdisjoint(main["paths"])
    assert admin["paths"].keys() >= FOR_OPERATORS
    assert main["paths"]["/autellix/v1/programs"]["get"]["responses"].keys() >= {"401"}
    assert "security" not in json.dumps(admin)
