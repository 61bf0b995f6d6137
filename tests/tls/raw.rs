//! TLS below gRPC: ALPN, versions, and handshakes that do not end.

use std::sync::Arc;

use rustls::{
    ClientConfig, ProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{ID, grpc_tls, start};
use crate::harness::{CertFiles, TestCa, TestServer, within};

/// Options of a TLS client.
#[derive(Default)]
struct Client<'files> {
    alpn: &'static [&'static str],
    only_tls12: bool,
    files: Option<&'files CertFiles>,
}

impl Client<'_> {
    async fn connect(self, authority: &TestCa, at: std::net::SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let versions = if self.only_tls12 { vec![&TLS12] } else { vec![&TLS12, &TLS13] };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&versions)
            .unwrap()
            .with_root_certificates(authority.roots());
        let mut config = match self.files {
            Some(files) => {
                let chain = CertificateDer::pem_file_iter(&files.certificate).unwrap().map(Result::unwrap).collect();
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap()).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(at).await?;
        let connecting = TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream);
        within("a handshake", connecting).await
    }
}

fn http_tls(registry: &TestServer) -> std::net::SocketAddr {
    registry.addresses().http_tls.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listener_negotiates_its_protocol() {
    let authority = TestCa::open();
    let registry = start(&authority, false);
    let negotiated = async |alpn, at| {
        let stream = Client { alpn, ..Client::default() }.connect(&authority, at).await;
        stream.map(|stream| stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()))
    };
    assert_eq!(negotiated(&["h2", "http/1.1"], grpc_tls(&registry)).await.unwrap().as_deref(), Some("h2"));
    assert_eq!(negotiated(&["h2", "http/1.1"], http_tls(&registry)).await.unwrap().as_deref(), Some("http/1.1"));
    assert_eq!(negotiated(&[], grpc_tls(&registry)).await.unwrap(), None, "a client without ALPN is accepted");
    let refused = negotiated(&["http/1.1"], grpc_tls(&registry)).await.unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_over_both_tls_versions_requires_the_certificate() {
    let authority = TestCa::open();
    let registry = start(&authority, true);
    let files = authority.workload(ID);
    for (only_tls12, version) in [(true, ProtocolVersion::TLSv1_2), (false, ProtocolVersion::TLSv1_3)] {
        let client = Client { only_tls12, files: Some(&files), ..Client::default() };
        let mut stream = client.connect(&authority, http_tls(&registry)).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version));
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut page = String::new();
        within("a page", stream.read_to_string(&mut page)).await.unwrap();
        assert!(page.starts_with("HTTP/1.1 200") && page.ends_with("ready\n"), "{page}");
    }
    let refused = Client { only_tls12: true, ..Client::default() }.connect(&authority, http_tls(&registry)).await;
    assert!(refused.is_err(), "without a certificate");
}

/// Waits until the other side has closed the connection.
async fn closed(mut stream: TcpStream) {
    let mut received = Vec::new();
    // A reset counts as well.
    let _ = within("the end", stream.read_to_end(&mut received)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshake_that_does_not_end_is_closed() {
    let authority = TestCa::open();
    let registry = start(&authority, false);
    let hello = [0x16, 3, 1, 0x7f, 0xff, 1, 0, 0x7f, 0xf0, 3, 3];
    let mut garbage = vec![0x16, 3, 1, 0, 100];
    garbage.extend([0xff; 100]);
    for said in [&[][..], &hello, &garbage, b"\0", b"PRI", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(grpc_tls(&registry)).await.unwrap();
        stream.write_all(said).await.unwrap();
        closed(stream).await;
    }
    // A complete handshake, and then nothing.
    let mut silent =
        Client { alpn: &["h2"], ..Client::default() }.connect(&authority, grpc_tls(&registry)).await.unwrap();
    let mut received = Vec::new();
    let _ = within("the end", silent.read_to_end(&mut received)).await;
}
