"""`rediss://` trusts a server only when its certificate and its name verify, on a real TLS connection."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.secured import running
from toolkit.errors import InvalidInput, LedgerUnavailable
from toolkit.ledger import Connection, Ledger
from toolkit.records import RunSpec
from toolkit.settings import LedgerSettings, ServerAddress

PASSWORD = "a-password-of-a-server-that-lives-for-a-test"
PATIENT = LedgerSettings(retry_s=60.0)  # a certificate that does not verify is told at once nevertheless


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates: an authority, one that it signed for localhost, one for another host, one signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH to make certificates with")
    folder = tmp_path_factory.mktemp("tls")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    def request(name: str, host: str) -> None:
        run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key",
            "-out", f"{name}.csr", "-subj", f"/CN={host}")  # fmt: skip
        (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{host}\n")

    run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority of a test",
        "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    for name, host in (("good", "localhost"), ("other", "elsewhere.example")):
        request(name, host)
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-out", f"{name}.crt", "-extfile", f"{name}.ext")  # fmt: skip
    request("self", "localhost")
    run("x509", "-req", "-in", "self.csr", "-signkey", "self.key", "-days", "2", "-out", "self.crt",
        "-extfile", "self.ext")  # fmt: skip
    return folder


def _relay(client: ssl.SSLSocket, server: socket.socket) -> None:
    """Copy bytes one way until an end, and close both."""
    with closing(client), closing(server):
        try:
            while data := client.recv(65536):
                server.sendall(data)
        except OSError:
            pass


class Terminator:
    """A TLS front for a server that was built without TLS; one certificate a front."""

    def __init__(self, papers: Path, name: str, target: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(papers / f"{name}.crt", papers / f"{name}.key")
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            client = self._context.wrap_socket(raw, server_side=True)
        except OSError:  # the client did not trust us
            raw.close()
            return
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._target))
        threading.Thread(target=_relay, args=(server, client), daemon=True).start()
        _relay(client, server)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def ports(request: pytest.FixtureRequest, papers: Path) -> Iterator[dict[str, int]]:
    """Ports of TLS by the name of the certificate; Redis speaks TLS itself, the embedded Valkey behind a front."""
    names = ("good", "other", "self")
    if request.param == "valkey":
        with running("valkey", f"requirepass {PASSWORD}") as (path, _):
            fronts = {name: Terminator(papers, name, path) for name in names}
            yield {name: front.port for name, front in fronts.items()}
            for front in fronts.values():
                front.close()
        return
    found = {}
    from contextlib import ExitStack

    with ExitStack() as stack:
        for name in names:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                found[name] = probe.getsockname()[1]
            stack.enter_context(
                running(
                    "redis", f"requirepass {PASSWORD}", f"tls-port {found[name]}", "bind 127.0.0.1",
                    f"tls-cert-file {papers / f'{name}.crt'}", f"tls-key-file {papers / f'{name}.key'}",
                    "tls-auth-clients no",
                )
            )  # fmt: skip
        yield found


def connect(port: int, query: str, host: str = "localhost") -> Connection:
    return Connection(ServerAddress.parse(f"rediss://:{PASSWORD}@{host}:{port}/0{query}"), PATIENT)


def test_a_certificate_of_a_known_authority_is_taken(ports: dict[str, int], papers: Path) -> None:
    query = f"?ssl_ca_certs={papers / 'ca.crt'}"
    assert connect(ports["good"], query).check_server()
    ledger = Ledger(ServerAddress.parse(f"rediss://:{PASSWORD}@localhost:{ports['good']}/0{query}"), PATIENT)
    spec = RunSpec("run-over-tls", "tests.task")
    ledger.create(spec, batch_size=1, auto=False, max_workers=0)
    assert ledger.spec("run-over-tls") == spec
    ledger.close()


@pytest.mark.parametrize(
    ("name", "with_authority", "host"),
    [
        ("good", False, "localhost"),
        ("self", True, "localhost"),
        ("other", True, "localhost"),
        ("good", True, "127.0.0.1"),
    ],
    ids=["unknown authority", "self-signed", "another host's", "by address"],
)
def test_a_certificate_that_does_not_verify_says_so_and_what_to_do(
    ports: dict[str, int], papers: Path, name: str, with_authority: bool, host: str
) -> None:
    query = f"?ssl_ca_certs={papers / 'ca.crt'}" if with_authority else ""
    connection = connect(ports[name], query, host)
    with pytest.raises(LedgerUnavailable, match=r"certificate does not verify .*ssl_ca_certs=") as caught:
        connection.check_server()
    assert PASSWORD not in str(caught.value)
    connection.close()


def test_a_server_without_tls_is_no_server_for_rediss(ports: dict[str, int], papers: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        plain.settimeout(30.0)

        def answer() -> None:
            other, _ = plain.accept()
            with other:
                other.sendall(b"-ERR unknown command\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        address = ServerAddress.parse(f"rediss://:{PASSWORD}@localhost:{plain.getsockname()[1]}/0")
        with pytest.raises(LedgerUnavailable) as caught:
            Connection(address, LedgerSettings(retry_s=0.0)).check_server()
        thread.join(30.0)
    assert PASSWORD not in str(caught.value)


def test_whoever_speaks_plainly_to_a_server_with_tls_is_told_so(ports: dict[str, int]) -> None:
    ledger = Ledger(ServerAddress.parse(f"redis://:{PASSWORD}@localhost:{ports['good']}/0"))
    with closing(ledger), pytest.raises(LedgerUnavailable, match="begins with rediss://"):
        ledger.connection.command("PING", retry_s=0.0)


def test_verification_is_off_only_where_the_url_says_so(ports: dict[str, int]) -> None:
    assert connect(ports["self"], "?ssl_cert_reqs=none&ssl_check_hostname=false").check_server()


@pytest.mark.parametrize("query", ["", "?ssl_ca_certs=ca.pem", "?db=1"])
def test_the_defaults_are_set_and_not_hoped_for(query: str) -> None:
    options = Connection(ServerAddress.parse(f"rediss://host:1/0{query}")).redis.connection_pool.connection_kwargs
    assert options["ssl_cert_reqs"] == "required"
    assert options["ssl_check_hostname"] is True


def test_a_password_in_the_query_is_still_refused() -> None:
    with pytest.raises(InvalidInput):
        ServerAddress.parse("rediss://host/0?ssl_password=hidden&password=hidden")
