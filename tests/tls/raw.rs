//! Below gRPC: what is negotiated, and peers that do not come to an end.

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

use super::{ID, grpc_tls, house};
use crate::harness::{CertFiles, TestCa, TestServer, within};

/// How a client that is none of ours speaks.
#[derive(Default)]
struct Client<'papers> {
    alpn: &'static [&'static str],
    only_tls12: bool,
    papers: Option<&'papers CertFiles>,
}

impl Client<'_> {
    async fn connect(self, office: &TestCa, at: std::net::SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let versions = if self.only_tls12 { vec![&TLS12] } else { vec![&TLS12, &TLS13] };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&versions)
            .unwrap()
            .with_root_certificates(office.roots());
        let mut config = match self.papers {
            Some(papers) => {
                let chain = CertificateDer::pem_file_iter(&papers.certificate).unwrap().map(Result::unwrap).collect();
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&papers.key).unwrap()).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(at).await?;
        let connecting = TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream);
        within("a handshake", connecting).await
    }
}

fn http_tls(house: &TestServer) -> std::net::SocketAddr {
    house.addresses().http_tls.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_listener_offers_what_it_speaks() {
    let office = TestCa::open();
    let house = house(&office, false);
    let negotiated = async |alpn, at| {
        let stream = Client { alpn, ..Client::default() }.connect(&office, at).await;
        stream.map(|stream| stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()))
    };
    assert_eq!(negotiated(&["h2", "http/1.1"], grpc_tls(&house)).await.unwrap().as_deref(), Some("h2"));
    assert_eq!(negotiated(&["h2", "http/1.1"], http_tls(&house)).await.unwrap().as_deref(), Some("http/1.1"));
    assert_eq!(negotiated(&[], grpc_tls(&house)).await.unwrap(), None, "who does not ask is taken at its word");
    let refused = negotiated(&["http/1.1"], grpc_tls(&house)).await.unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_are_spoken_and_pages_are_shown_to_who_has_a_certificate() {
    let office = TestCa::open();
    let house = house(&office, true);
    let papers = office.workload(ID);
    for (only_tls12, version) in [(true, ProtocolVersion::TLSv1_2), (false, ProtocolVersion::TLSv1_3)] {
        let client = Client { only_tls12, papers: Some(&papers), ..Client::default() };
        let mut stream = client.connect(&office, http_tls(&house)).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version));
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut page = String::new();
        within("a page", stream.read_to_string(&mut page)).await.unwrap();
        assert!(page.starts_with("HTTP/1.1 200") && page.ends_with("ready\n"), "{page}");
    }
    let refused = Client { only_tls12: true, ..Client::default() }.connect(&office, http_tls(&house)).await;
    assert!(refused.is_err(), "without a certificate");
}

/// Returns once the other side has closed.
async fn closed(mut stream: TcpStream) {
    let mut heard = Vec::new();
    // A reset is an end as well.
    let _ = within("the end", stream.read_to_end(&mut heard)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_come_to_an_end_is_cut_off() {
    let office = TestCa::open();
    let house = house(&office, false);
    let hello = [0x16, 3, 1, 0x7f, 0xff, 1, 0, 0x7f, 0xf0, 3, 3];
    let mut garbage = vec![0x16, 3, 1, 0, 100];
    garbage.extend([0xff; 100]);
    for said in [&[][..], &hello, &garbage, b"\0", b"PRI", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(grpc_tls(&house)).await.unwrap();
        stream.write_all(said).await.unwrap();
        closed(stream).await;
    }
    // Shakes hands, and then says nothing.
    let mut silent = Client { alpn: &["h2"], ..Client::default() }.connect(&office, grpc_tls(&house)).await.unwrap();
    let mut heard = Vec::new();
    let _ = within("the end", silent.read_to_end(&mut heard)).await;
}
