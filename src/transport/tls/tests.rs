//! Which files can be used, and what happens when they change.

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
    super::Protocol, CertificateSummary, HandshakeError, TlsError, TlsPaths, TlsState, reload::ExpiryStage, shake_hands,
};
use crate::{clock::Clock, metrics::Metrics};

const LONG: Duration = Duration::from_secs(30);

/// Who signs, and a directory for what is signed.
struct Office {
    issuer: Issuer<'static, KeyPair>,
    authority: CertificateDer<'static>,
    directory: TempDir,
}

impl Office {
    fn open() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "office");
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
        Self { authority: authority.der().clone(), issuer: Issuer::new(params, key), directory }
    }

    /// A certificate for this name and its key, as two texts.
    fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn issue(&self, name: &str) -> TlsPaths {
        let (certificate, key) = self.sign(name, |_| {});
        self.put(&certificate, &key)
    }

    fn put(&self, certificate: &str, key: &str) -> TlsPaths {
        let path = |name: &str| self.directory.path().join(name);
        fs::write(path("cert.pem"), certificate).unwrap();
        fs::write(path("key.pem"), key).unwrap();
        fs::set_permissions(path("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        TlsPaths { certificate: path("cert.pem"), key: path("key.pem"), client_ca: None }
    }

    fn trusting(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        TlsConnector::from(Arc::new(config.with_no_client_auth()))
    }
}

fn tls(files: TlsPaths) -> Arc<TlsState> {
    TlsState::load(files, Arc::new(Clock::new(0)), Metrics::new()).unwrap()
}

fn refusal(files: &TlsPaths) -> String {
    files.load().unwrap_err().to_string()
}

#[test]
fn files_that_cannot_be_used_are_refused_with_a_remedy() {
    let office = Office::open();
    let files = office.issue("localhost");
    assert!(files.load().is_ok());
    let (other_certificate, other_key) = office.sign("localhost", |_| {});
    let (good, key) = (fs::read_to_string(&files.certificate).unwrap(), fs::read_to_string(&files.key).unwrap());
    let cases: [(&Path, &str, &str); 8] = [
        (&files.certificate, "", "has no certificate in PEM; put"),
        (&files.certificate, &key, "has no certificate in PEM; put"),
        (&files.certificate, &good[..good.len() / 2], "malformed PEM"),
        (&files.certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no X.509 certificate"),
        (&files.key, "", "has no private key in PEM; put it there without a passphrase"),
        (&files.key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "use a key for ECDSA"),
        (&files.key, &other_key, "is not the key of the certificate in"),
        (&files.certificate, &other_certificate, "is not the key of the certificate in"),
    ];
    for (path, text, reason) in cases {
        office.put(&good, &key);
        fs::write(path, text).unwrap();
        let said = refusal(&files);
        assert!(said.contains(reason), "{reason}: {said}");
        assert!(said.contains(".pem: ") && said.contains("; "), "path and remedy: {said}");
    }
    office.put(&good, &key);
    let absent = TlsPaths { key: office.directory.path().join("absent.pem"), ..files.clone() };
    assert!(refusal(&absent).contains("absent.pem: cannot be read"), "{}", refusal(&absent));
    let no_ca = TlsPaths { client_ca: Some(files.key.clone()), ..files.clone() };
    assert!(refusal(&no_ca).contains("key.pem: has no certificate"), "{}", refusal(&no_ca));
    let with_ca = TlsPaths { client_ca: Some(office.directory.path().join("ca.pem")), ..files };
    assert!(with_ca.load().unwrap().client_ca_end.is_some());
}

#[test]
fn an_open_key_is_noticed() {
    let office = Office::open();
    let files = office.issue("localhost");
    assert!(!files.load().unwrap().key_is_open);
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(files.load().unwrap().key_is_open);
}

#[test]
fn the_end_is_told_in_time() {
    let day = 86_400;
    let yearly = CertificateSummary { names: vec![], not_before: 0, not_after: 365 * day };
    for (left, stage) in
        [(31, ExpiryStage::Fine), (29, ExpiryStage::Soon), (6, ExpiryStage::Urgent), (0, ExpiryStage::Over)]
    {
        assert_eq!(ExpiryStage::at((365 - left) * day, &yearly), stage, "{left} days");
    }
    assert_eq!(ExpiryStage::at(400 * day, &yearly), ExpiryStage::Over);
    // One that is replaced every hour is not always about to end.
    let hourly = CertificateSummary { names: vec![], not_before: 0, not_after: 3_600 };
    for (left, stage) in
        [(3_600, ExpiryStage::Fine), (1_300, ExpiryStage::Fine), (1_100, ExpiryStage::Soon), (300, ExpiryStage::Urgent)]
    {
        assert_eq!(ExpiryStage::at(3_600 - left, &hourly), stage, "{left} s");
    }
}

#[tokio::test]
async fn what_has_expired_does_not_replace_what_holds() {
    let office = Office::open();
    let tls = tls(office.issue("before"));
    let (certificate, key) = office.sign("after", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let loaded = office.put(&certificate, &key).load().unwrap();
    let said = tls.accept(loaded).unwrap_err();
    assert!(matches!(&said, TlsError::Expired { on, .. } if on == "2020-01-01T00:00:00Z"), "{said}");
    assert!(tls.accept(office.issue("after").load().unwrap()).is_ok());
}

/// The name of the certificate that a client is shown.
async fn shown(office: &Office, tls: &Arc<TlsState>) -> String {
    let (ours, theirs) = pair().await;
    let serving = tokio::spawn({
        let tls = Arc::clone(tls);
        async move { receive(theirs, &tls).await.unwrap() }
    });
    let name = tls.now().own.names[0].clone().try_into().unwrap();
    let stream = office.trusting().connect(name, ours).await.unwrap();
    let shown = CertificateSummary::read(&stream.get_ref().1.peer_certificates().unwrap()[0]).unwrap();
    serving.await.unwrap();
    shown.names.concat()
}

async fn receive(stream: TcpStream, tls: &TlsState) -> Result<TlsStream<TcpStream>, HandshakeError> {
    let mut first = [0];
    stream.peek(&mut first).await.unwrap();
    shake_hands(first[0], stream, tls, Protocol::Http2).await.map(|(stream, _)| stream)
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (ours.unwrap(), theirs.unwrap().0)
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let waiting = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turned_link_is_noticed_and_a_broken_file_is_not_used() {
    let (one, other) = (Office::open(), Office::open());
    let mount = tempfile::tempdir().unwrap();
    // As Kubernetes mounts a secret: the files are links through `..data`, which is turned in one step.
    let turn = |to: &Path| {
        let fresh = mount.path().join("..fresh");
        std::os::unix::fs::symlink(to, &fresh).unwrap();
        fs::rename(fresh, mount.path().join("..data")).unwrap();
    };
    one.issue("one");
    turn(one.directory.path());
    for name in ["cert.pem", "key.pem"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), mount.path().join(name)).unwrap();
    }
    let files =
        TlsPaths { certificate: mount.path().join("cert.pem"), key: mount.path().join("key.pem"), client_ca: None };
    let tls = tls(files);
    let watching = tokio::spawn(Arc::clone(&tls).watch());
    assert_eq!(shown(&one, &tls).await, "one");

    other.issue("other");
    turn(other.directory.path());
    until("the link is noticed", || tls.metrics.tls.reloaded.get() == 1).await;
    assert_eq!(shown(&other, &tls).await, "other");

    fs::write(other.directory.path().join("cert.pem"), "broken").unwrap();
    until("the broken file is noticed", || tls.metrics.tls.reload_failed.get() == 1).await;
    assert_eq!(shown(&other, &tls).await, "other");
    tls.reload();
    until("asked, it is read again", || tls.metrics.tls.reload_failed.get() == 2).await;

    other.issue("third");
    until("the good file is noticed", || tls.metrics.tls.reloaded.get() == 2).await;
    assert_eq!(shown(&other, &tls).await, "third");
    watching.abort();
}

#[tokio::test]
async fn who_speaks_no_tls_is_told_so() {
    let office = Office::open();
    let tls = tls(office.issue("localhost"));
    let cases: [(&[u8], &[u8]); 3] = [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"this port speaks TLS only"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"\0\0\0", b""),
    ];
    for (said, answer) in cases {
        let (mut ours, theirs) = pair().await;
        ours.write_all(said).await.unwrap();
        ours.shutdown().await.unwrap();
        let ended = receive(theirs, &tls).await.unwrap_err();
        assert!(matches!(ended, HandshakeError::Plaintext), "{ended}");
        let mut heard = Vec::new();
        ours.read_to_end(&mut heard).await.unwrap();
        let found = heard.windows(answer.len().max(1)).any(|part| part == answer);
        assert!(found || answer.is_empty() && heard.is_empty(), "{}", String::from_utf8_lossy(&heard));
    }
    assert_eq!(tls.metrics.tls.plaintext.get(), 3);
    let (mut ours, theirs) = pair().await;
    ours.write_all(&[0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5]).await.unwrap();
    let ended = receive(theirs, &tls).await.unwrap_err();
    assert!(matches!(ended, HandshakeError::Failed(_)), "{ended}");
    assert_eq!(tls.metrics.tls.failed.get(), 1);
}
