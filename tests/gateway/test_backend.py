"""Gateway and engine together: started, restarted and stopped as one."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import signal
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fake_engine import CHAT
from script_launch import QUICK, ScriptLaunch, survivors, until

from autellix_sdk.errors import ConfigurationError
from autellix_server.engine.supervisor import EngineState, EngineStatus
from autellix_server.errors import EngineFailure
from autellix_server.gateway.backend import Backend
from autellix_server.gateway.settings import ServeSettings, read_settings
from autellix_server.gateway.sockets import bind, tls_context
from autellix_server.scheduling.bounds import BoundSettings

ANYWHERE = ServeSettings(port=0)


def status(backend: Backend, name: str = "e0") -> EngineStatus:
    """Return what is known about an engine of a backend."""
    member = backend.fleet.get(name)
    assert member is not None
    return member.status


async def test_a_backend_serves_from_entry_to_exit(tmp_path: Path) -> None:
    """Health at once, calls when the engine is ready, and nothing left at the end."""
    launch, seen = ScriptLaunch(tmp_path), list[tuple[str, EngineStatus]]()
    async with (
        Backend(
            ANYWHERE, [launch], tmp_path.joinpath, timing=QUICK, on_change=lambda *change: seen.append(change)
        ) as backend,
        aiohttp.ClientSession(backend.url) as client,
    ):
        assert (await client.get("/health")).status == 200
        early = await client.post("/v1/chat/completions", json=CHAT)
        assert early.status == 503
        await backend.ready()
        assert status(backend).pid in launch.family()
        assert (await client.get("/ready")).status == 200
        assert (await client.get("/v1/models")).status == 200
        assert (await client.get("/server_info")).status == 404
        url = backend.url
    assert survivors(launch.family()) == set()
    assert (seen[-1][0], seen[-1][1].state) == ("e0", EngineState.STOPPED)
    async with aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get(url + "/health")


async def test_the_engines_limits_are_told_while_it_is_ready(tmp_path: Path) -> None:
    """For `autellix calibrate`; an engine that has not said them yet has none."""
    launch = ScriptLaunch(tmp_path)
    async with (
        Backend(ANYWHERE, [launch], tmp_path.joinpath, timing=QUICK) as backend,
        aiohttp.ClientSession(backend.url) as client,
    ):

        async def limits() -> object:
            async with client.get("/health") as reply:
                return (await reply.json())["engines"]["e0"]["limits"]

        assert await limits() is None
        await backend.ready()
        assert await limits() == {"slots": 16, "kv_tokens": 32768, "chunk_tokens": 512}


async def test_hundreds_of_clients_can_connect_at_once(tmp_path: Path) -> None:
    """Before and while the gateway serves; here nobody accepts, since the event loop does not turn meanwhile."""

    def connect_all(url: str) -> None:
        address = ("127.0.0.1", urlsplit(url).port)
        with ExitStack() as clients:
            for _ in range(300):
                clients.enter_context(socket.create_connection(address, timeout=0.5))

    with bind("127.0.0.1", 0) as bound:
        connect_all(f"http://127.0.0.1:{bound.getsockname()[1]}")
        async with Backend(ANYWHERE, [ScriptLaunch(tmp_path)], tmp_path.joinpath, bound=bound, timing=QUICK) as backend:
            connect_all(backend.url)


async def test_an_engine_killed_under_the_gateway_comes_back(tmp_path: Path) -> None:
    """Calls in between are told to wait."""
    launch = ScriptLaunch(tmp_path)
    async with (
        Backend(ANYWHERE, [launch], tmp_path.joinpath, timing=QUICK) as backend,
        aiohttp.ClientSession(backend.url) as client,
    ):
        await backend.ready()
        pid = status(backend).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: status(backend).state is not EngineState.READY)
        assert (await client.get("/v1/models")).status == 503
        await until(lambda: status(backend).state is EngineState.READY)
        assert (await client.get("/v1/models")).status == 200
        assert status(backend).restarts == 1


async def test_an_engine_that_cannot_start_ends_the_wait(tmp_path: Path) -> None:
    """The reason is the error; leaving the context works as ever."""
    launch = ScriptLaunch(tmp_path, mode="refuse")
    with pytest.raises(EngineFailure, match="refused flag --enable-mixed-chunk"):
        async with Backend(ANYWHERE, [launch], tmp_path.joinpath, timing=QUICK) as backend:
            await backend.ready()


@pytest.mark.parametrize(
    "part",
    [
        "fleet.prober.Prober._probe",
        "fleet.keeper._life",
        "gateway.watch_lag",
        "state.state.GatewayState.commit",
        "workers.crew.Crew._one_life",
    ],
)
async def test_a_gateway_of_which_a_part_has_failed_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Half alive it would serve for days, and not notice that an engine hangs."""

    async def fail(*args: object) -> None:
        raise RuntimeError("a part has failed")

    monkeypatch.setattr(f"autellix_server.gateway.{part}", fail)
    launch, settings = ScriptLaunch(tmp_path), ServeSettings(port=0, workers=1)
    with pytest.raises(RuntimeError, match="a part has failed"):
        async with Backend(settings, [launch], tmp_path.joinpath, state=tmp_path / "db", timing=QUICK) as backend:
            await asyncio.wait_for(backend.failed(), 5)
    assert survivors(launch.family()) == set()


async def test_leaving_while_the_engine_starts_stops_it(tmp_path: Path) -> None:
    """Ctrl-C does not have to wait for the weights."""
    launch = ScriptLaunch(tmp_path, mode="silent")
    async with Backend(ANYWHERE, [launch], tmp_path.joinpath, timing=QUICK) as backend:
        await until(launch.family)
        assert status(backend).state is EngineState.STARTING
        waiting = asyncio.create_task(backend.ready())
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    assert survivors(launch.family()) == set()


def test_a_port_in_use_is_one_sentence() -> None:
    """It names the port and the remedy."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"^port {port} on 127.0.0.1 is in use; .* --port$"):
            bind("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_one_sentence() -> None:
    """Whether it is another machine's or nobody's."""
    for host in ("192.0.2.1", "no-such-host.invalid", "no..host"):
        with pytest.raises(ConfigurationError, match=f"^cannot listen on --host {host} and --port 0: "):
            bind(host, 0)
    with pytest.raises(ConfigurationError, match=r"^cannot listen on --admin-host 192.0.2.1 and --admin-port 0: "):
        bind("192.0.2.1", 0, "--admin-port")


def test_an_address_may_be_written_as_in_a_url() -> None:
    """With the brackets of IPv6."""
    settings = ServeSettings(host="[::1]", admin_host="[::1]")
    assert (settings.host, settings.admin_host) == ("::1", "::1")
    with bind(settings.host, 0) as bound:
        assert bound.getsockname()[0] == "::1"


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the environment over the defaults."""
    monkeypatch.setenv("AUTELLIX_PORT", "9000")
    monkeypatch.setenv("AUTELLIX_POLICY", "fcfs")
    monkeypatch.setenv("AUTELLIX_ALLOWED_HOSTS", "a, b")
    settings = read_settings({"port": 9001, "policy": None})
    assert (settings.port, settings.policy, settings.allowed_hosts) == (9001, "fcfs", ("a", "b"))


def test_bounds_are_calibrated_unless_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command line ``auto`` wins over a number in the environment; a list wins over nothing only."""
    assert read_settings({}).bounds == BoundSettings()
    monkeypatch.setenv("AUTELLIX_FIRST_BOUND_S", "0.5")
    assert read_settings({}).bounds == BoundSettings(0.5)
    with pytest.raises(ConfigurationError, match="leave out first_bound_s"):
        read_settings({"bounds_s": "1,2"})
    every = read_settings({"first_bound_s": "auto", "bounds_s": "1, 2"})
    assert every.bounds == BoundSettings(bounds_s=(1.0, 2.0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 70000),
        ("policy", "lottery"),
        ("lease_s", 0.0),
        ("device", "tpu"),
        ("balancer", "best"),
        ("state", ""),
        ("host", ""),
        ("first_bound_s", "soon"),
        ("first_bound_s", "-1"),
        ("bounds_s", "2,1"),
        ("bounds_s", "1,inf"),
        ("beta", 0.0),
        ("steps_between_plans", 0),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(name: str, value: object) -> None:
    """By flag and by variable."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings({name: value})
    assert f"--{name.replace('_', '-')} (or AUTELLIX_{name.upper()}) is {value!r}: " in str(caught.value)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A PEM file with a key and a certificate of 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    file = tmp_path / "cert.pem"
    file.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return file


async def test_with_a_certificate_clients_and_operators_use_https(tmp_path: Path, certificate: Path) -> None:
    """Operators' endpoints have a port of their own, and are not on the clients'."""
    settings = ServeSettings(port=0, admin_port=0, tls_cert=certificate)
    trust = ssl.create_default_context(cafile=str(certificate))
    async with (
        Backend(settings, [ScriptLaunch(tmp_path)], tmp_path.joinpath, timing=QUICK) as backend,
        aiohttp.ClientSession() as client,
    ):
        assert backend.url.startswith("https://")
        assert backend.admin_url.startswith("https://")
        await backend.ready()
        for url, path, status in (
            (backend.url, "/v1/models", 200),
            (backend.url, "/autellix/v1/engines", 404),
            (backend.url, "/metrics", 404),
            (backend.admin_url, "/autellix/v1/engines", 200),
            (backend.admin_url, "/v1/models", 404),
        ):
            assert (await client.get(url + path, ssl=trust)).status == status, (url, path)


def test_a_certificate_that_cannot_be_used_is_explained(tmp_path: Path, certificate: Path) -> None:
    """Before anything starts; the setting is named, and nobody is asked for a password."""
    with pytest.raises(ConfigurationError, match=r"--tls-cert .* cannot be used"):
        tls_context(ServeSettings(tls_cert=tmp_path / "none.pem"))
    encrypted = tmp_path / "encrypted.pem"
    protection = serialization.BestAvailableEncryption(b"password")
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
    )
    encrypted.write_bytes(certificate.read_bytes().partition(b"-----BEGIN PRIVATE")[0] + pem)
    with pytest.raises(ConfigurationError, match=r"--tls-cert .* cannot be used: .* without a password"):
        tls_context(ServeSettings(tls_cert=encrypted))
    with pytest.raises(ConfigurationError, match=r"--tls-key .* needs --tls-cert"):
        tls_context(ServeSettings(tls_key=tmp_path / "key.pem"))
    assert tls_context(ServeSettings()) is None


async def test_who_listens_for_others_keeps_operators_endpoints_to_itself(tmp_path: Path) -> None:
    """Without a port of their own they are served to this machine alone, or not at all."""
    settings = ServeSettings(host="0.0.0.0", port=0)
    async with (
        Backend(settings, [ScriptLaunch(tmp_path)], tmp_path.joinpath, timing=QUICK) as backend,
        aiohttp.ClientSession() as client,
    ):
        url = backend.url.replace("0.0.0.0", "127.0.0.1")
        assert (await client.get(url + "/autellix/v1/engines")).status == 404
        assert (await client.get(url + "/health")).status == 200
