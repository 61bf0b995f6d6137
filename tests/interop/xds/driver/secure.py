"""The scenario with TLS between the clients and the registry."""

import os
import subprocess
from pathlib import Path

from clients import CLIENT_TYPES, TlsSupport
from registry import Registry, Service
from world import Difference, World

DIFFERENCES = {
    TlsSupport.NONE: Difference("The client, as tested, connects to a registry without TLS only."),
    TlsSupport.SERVER: Difference("The client has no certificate, so the registry must not require one."),
}
PASSWORD = "password"


class TlsRegistry(Registry):
    """A registry that clients reach with TLS."""

    def __init__(self, world: World, certificates: Path, mutual: bool) -> None:
        self._certificates, self._mutual = certificates, mutual
        flags = ["--grpc-tls", "127.0.0.1:0", "--tls-cert", f"{certificates}/server.pem", "--tls-key", f"{certificates}/server.key"]
        if mutual:
            flags += ["--tls-client-ca", f"{certificates}/ca.pem"]
        super().__init__(world.memory.program, world.scratch, *flags)
        # Java takes the authorities from its own store, whose file a bootstrap cannot name.
        if "java" in world.names:
            store = make_trust_store(certificates, world.scratch)
            options = {"trustStore": store, "trustStorePassword": PASSWORD}
            self.environment = {"JAVA_TOOL_OPTIONS": " ".join(f"-Djavax.net.ssl.{name}={value}" for name, value in options.items())}

    def bootstrap(self, kind: str, *options: str) -> str:
        tls = ["--tls-ca", f"{self._certificates}/ca.pem"] if kind != "java" else []
        if self._mutual:
            tls += ["--tls-cert", f"{self._certificates}/client.pem", "--tls-key", f"{self._certificates}/client.key"]
        return self.command("xds", "bootstrap", "--for", kind, *options, *tls, server=f"https://{self.tls_address}")


def make_trust_store(certificates: Path, scratch: Path) -> Path:
    store = scratch / "trust.p12"
    if not store.exists():
        command = ["keytool", "-importcert", "-noprompt", "-alias", "callboard", "-file", str(certificates / "ca.pem")]
        command += ["-keystore", str(store), "-storetype", "PKCS12", "-storepass", PASSWORD]
        subprocess.run(command, check=True, capture_output=True)
    return store


def with_tls(world: World) -> None:
    """Connects the clients to a registry with TLS, first without certificates of the clients, and then with them."""
    for mutual in (False, True):
        supports = {TlsSupport.MUTUAL} if mutual else {TlsSupport.MUTUAL, TlsSupport.SERVER}
        if not (names := [name for name in world.names if CLIENT_TYPES[name].tls in supports]):
            continue
        registry = TlsRegistry(world, Path(os.environ["CERTIFICATES"]), mutual)
        try:
            Service(registry, "payments").become(*world.backends("ab"))
            with world.other_fleet("xds:///payments", registry, names) as fleet:
                fleet.each(lambda client: client.sees("a", "b"))
        finally:
            registry.kill()
    for name in world.names:
        world.results[name].difference = DIFFERENCES.get(CLIENT_TYPES[name].tls)
