//! Tests of loading, of reloading, and of peers without TLS.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, server::TlsStream};

use super::{
    super::Protocol, CertificateSummary, HandshakeError, TlsError, TlsPaths, TlsState, perform_handshake,
    reload::ExpiryStage,
};
use crate::{clock::Clock, metrics::Metrics};

const DEADLINE: Duration = Duration::from_secs(30);

/// Certificate authority with a directory for its certificates.
struct TestAuthority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    directory: TempDir,
}

impl TestAuthority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), root.pem()).unwrap();
        Self { root: root.der().clone(), issuer: Issuer::new(params, key), directory }
    }

    /// Signs a certificate for this name. Returns it and its key in PEM.
    fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn issue(&self, name: &str) -> TlsPaths {
        let (certificate, key) = self.sign(name, |_| {});
        self.write(&certificate, &key)
    }

    fn write(&self, certificate: &str, key: &str) -> TlsPaths {
        let path = |name: &str| self.directory.path().join(name);
        fs::write(path("cert.pem"), certificate).unwrap();
        fs::write(path("key.pem"), key).unwrap();
        fs::set_permissions(path("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        TlsPaths { certificate: path("cert.pem"), key: path("key.pem"), client_ca: None }
    }

    fn client(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        TlsConnector::from(Arc::new(config.with_no_client_auth()))
    }
}

fn tls(files: TlsPaths) -> Arc<TlsState> {
    TlsState::load(files, Arc::new(Clock::new(0)), Metrics::new()).unwrap()
}

fn load_error(files: &TlsPaths) -> String {
    files.load().unwrap_err().to_string()
}

#[test]
fn file_that_cannot_be_used_is_rejected_with_a_remedy() {
    let authority = TestAuthority::new();
    let files = authority.issue("localhost");
    assert!(files.load().is_ok());
    let (other_certificate, other_key) = authority.sign("localhost", |_| {});
    let (good, key) = (fs::read_to_string(&files.certificate).unwrap(), fs::read_to_string(&files.key).unwrap());
    let cases: [(&Path, &str, &str); 8] = [
        (&files.certificate, "", "has no certificate in PEM; put"),
        (&files.certificate, &key, "has no certificate in PEM; put"),
        (&files.certificate, &good[..good.len() / 2], "malformed PEM"),
        (
            &files.certificate,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "not an X.509 certificate",
        ),
        (&files.key, "", "has no private key in PEM; put it there without a passphrase"),
        (&files.key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "use a key for ECDSA"),
        (&files.key, &other_key, "is not the key of the certificate in"),
        (&files.certificate, &other_certificate, "is not the key of the certificate in"),
    ];
    for (path, text, reason) in cases {
        authority.write(&good, &key);
        fs::write(path, text).unwrap();
        let error = load_error(&files);
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(error.contains(".pem: ") && error.contains("; "), "path and remedy: {error}");
    }
    authority.write(&good, &key);
    let absent = TlsPaths { key: authority.directory.path().join("absent.pem"), ..files.clone() };
    assert!(load_error(&absent).contains("absent.pem: cannot be read"), "{}", load_error(&absent));
    let no_ca = TlsPaths { client_ca: Some(files.key.clone()), ..files.clone() };
    assert!(load_error(&no_ca).contains("key.pem: has no certificate"), "{}", load_error(&no_ca));
    let with_ca = TlsPaths { client_ca: Some(authority.directory.path().join("ca.pem")), ..files };
    assert!(with_ca.load().unwrap().client_ca_end.is_some());
}

#[test]
fn key_that_every_user_can_read_is_reported() {
    let authority = TestAuthority::new();
    let files = authority.issue("localhost");
    assert!(!files.load().unwrap().key_is_readable_by_others);
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(files.load().unwrap().key_is_readable_by_others);
}

#[test]
fn expiry_stage_depends_on_the_validity_of_the_certificate() {
    let day = 86_400;
    let yearly = CertificateSummary { names: vec![], not_before: 0, not_after: 365 * day };
    for (left, stage) in
        [(31, ExpiryStage::Fine), (29, ExpiryStage::Soon), (6, ExpiryStage::Urgent), (0, ExpiryStage::Expired)]
    {
        assert_eq!(ExpiryStage::at((365 - left) * day, &yearly), stage, "{left} days");
    }
    assert_eq!(ExpiryStage::at(400 * day, &yearly), ExpiryStage::Expired);
    // A certificate that is replaced every hour is not always urgent.
    let hourly = CertificateSummary { names: vec![], not_before: 0, not_after: 3_600 };
    for (left, stage) in
        [(3_600, ExpiryStage::Fine), (1_300, ExpiryStage::Fine), (1_100, ExpiryStage::Soon), (300, ExpiryStage::Urgent)]
    {
        assert_eq!(ExpiryStage::at(3_600 - left, &hourly), stage, "{left} s");
    }
}

#[tokio::test]
async fn expired_certificate_does_not_replace_a_valid_one() {
    let authority = TestAuthority::new();
    let tls = tls(authority.issue("before"));
    let (certificate, key) = authority.sign("after", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let loaded = authority.write(&certificate, &key).load().unwrap();
    let error = tls.accept(loaded).unwrap_err();
    assert!(matches!(&error, TlsError::Expired { on, .. } if on == "2020-01-01T00:00:00Z"), "{error}");
    assert!(tls.accept(authority.issue("after").load().unwrap()).is_ok());
}

/// Name of the certificate that a client gets.
async fn name_seen_by_client(authority: &TestAuthority, tls: &Arc<TlsState>) -> String {
    let (ours, theirs) = pair().await;
    let serving = tokio::spawn({
        let tls = Arc::clone(tls);
        async move { receive(theirs, &tls).await.unwrap() }
    });
    let name = tls.current().own.names[0].clone().try_into().unwrap();
    let stream = authority.client().connect(name, ours).await.unwrap();
    let shown = CertificateSummary::read(&stream.get_ref().1.peer_certificates().unwrap()[0]).unwrap();
    serving.await.unwrap();
    shown.names.concat()
}

async fn receive(stream: TcpStream, tls: &TlsState) -> Result<TlsStream<TcpStream>, HandshakeError> {
    let mut first = [0];
    stream.peek(&mut first).await.unwrap();
    perform_handshake(first[0], stream, tls, Protocol::Http2).await.map(|(stream, _)| stream)
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (ours.unwrap(), theirs.unwrap().0)
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{what}: timed out"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_link_is_reloaded_and_a_malformed_file_is_not() {
    let (one, other) = (TestAuthority::new(), TestAuthority::new());
    let mount = tempfile::tempdir().unwrap();
    // Kubernetes mounts a secret like this: the files are links through `..data`, which is replaced in one step.
    let point_to = |to: &Path| {
        let fresh = mount.path().join("..fresh");
        std::os::unix::fs::symlink(to, &fresh).unwrap();
        fs::rename(fresh, mount.path().join("..data")).unwrap();
    };
    one.issue("one");
    point_to(one.directory.path());
    for name in ["cert.pem", "key.pem"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), mount.path().join(name)).unwrap();
    }
    let files =
        TlsPaths { certificate: mount.path().join("cert.pem"), key: mount.path().join("key.pem"), client_ca: None };
    let tls = tls(files);
    let watching = tokio::spawn(Arc::clone(&tls).watch());
    assert_eq!(name_seen_by_client(&one, &tls).await, "one");

    other.issue("other");
    point_to(other.directory.path());
    until("the link is noticed", || tls.metrics.tls.reloaded.get() == 1).await;
    assert_eq!(name_seen_by_client(&other, &tls).await, "other");

    fs::write(other.directory.path().join("cert.pem"), "malformed").unwrap();
    until("the malformed file is noticed", || tls.metrics.tls.reload_failed.get() == 1).await;
    assert_eq!(name_seen_by_client(&other, &tls).await, "other");
    tls.reload();
    until("it is read again on request", || tls.metrics.tls.reload_failed.get() == 2).await;

    other.issue("third");
    until("the good file is noticed", || tls.metrics.tls.reloaded.get() == 2).await;
    assert_eq!(name_seen_by_client(&other, &tls).await, "third");
    watching.abort();
}

#[tokio::test]
async fn peer_without_tls_gets_the_reason_in_its_protocol() {
    let authority = TestAuthority::new();
    let tls = tls(authority.issue("localhost"));
    let cases: [(&[u8], &[u8]); 3] = [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"this port speaks TLS only"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"\0\0\0", b""),
    ];
    for (sent, answer) in cases {
        let (mut ours, theirs) = pair().await;
        ours.write_all(sent).await.unwrap();
        ours.shutdown().await.unwrap();
        let ended = receive(theirs, &tls).await.unwrap_err();
        assert!(matches!(ended, HandshakeError::Plaintext), "{ended}");
        let mut received = Vec::new();
        ours.read_to_end(&mut received).await.unwrap();
        let found = received.windows(answer.len().max(1)).any(|part| part == answer);
        assert!(found || answer.is_empty() && received.is_empty(), "{}", String::from_utf8_lossy(&received));
    }
    assert_eq!(tls.metrics.tls.plaintext.get(), 3);
    let (mut ours, theirs) = pair().await;
    ours.write_all(&[0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5]).await.unwrap();
    let ended = receive(theirs, &tls).await.unwrap_err();
    assert!(matches!(ended, HandshakeError::Failed(_)), "{ended}");
    assert_eq!(tls.metrics.tls.failed.get(), 1);
}
