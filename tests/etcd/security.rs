//! Users, passwords and certificates.

use callboard::etcd::{
    EtcdClient, EtcdCredentials, EtcdError, EtcdErrorKind, EtcdOptions, EtcdRange, EtcdTls, EtcdWatchEvent,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{changes, end_of, entries, next_batch, put};
use crate::harness::{EtcdCluster, TestCa, within};

/// Sends a request to the JSON gateway of the first member, with a token if there is one. Returns the answer.
async fn post(cluster: &EtcdCluster, path: &str, token: Option<&str>, body: &str) -> serde_json::Value {
    let address = cluster.address(0);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let token = token.map_or_else(String::new, |token| format!("Authorization: {token}\r\n"));
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\n{token}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(path, stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

fn encoded(text: &str) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text)
}

/// Returns the keys with a prefix as fields of JSON. The prefix ends with `/`.
fn key_range(prefix: &str) -> String {
    let end = format!("{}0", prefix.strip_suffix('/').unwrap());
    format!(r#""key":"{}","range_end":"{}""#, encoded(prefix), encoded(&end))
}

/// Demands a user. `root` may do everything, and `app` may use the keys with a prefix.
pub async fn enable_authentication(cluster: &mut EtcdCluster, prefix: &str) {
    let permission = format!(r#"{{"name":"app","perm":{{"permType":"READWRITE",{}}}}}"#, key_range(prefix));
    for (path, body) in [
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/role/add", r#"{"name":"app"}"#),
        ("/v3/auth/role/grant", &*permission),
        ("/v3/auth/user/add", r#"{"name":"root","password":"secret"}"#),
        ("/v3/auth/user/add", r#"{"name":"app","password":"public"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"app","role":"app"}"#),
        ("/v3/auth/enable", "{}"),
    ] {
        post(cluster, path, None, body).await;
    }
    cluster.set_credentials("root", "secret");
}

/// Takes the permission for the keys with a prefix from `app`, or grants it again.
pub async fn permit(cluster: &EtcdCluster, prefix: &str, is_permitted: bool) {
    let answer = post(cluster, "/v3/auth/authenticate", None, r#"{"name":"root","password":"secret"}"#).await;
    let token = answer["token"].as_str();
    let keys = key_range(prefix);
    if is_permitted {
        let body = format!(r#"{{"name":"app","perm":{{"permType":"READWRITE",{keys}}}}}"#);
        post(cluster, "/v3/auth/role/grant", token, &body).await;
    } else {
        post(cluster, "/v3/auth/role/revoke", token, &format!(r#"{{"role":"app",{keys}}}"#)).await;
    }
}

fn client_as(cluster: &EtcdCluster, user: &str, password: &str) -> EtcdClient {
    let credentials = EtcdCredentials { user: user.to_owned(), password: password.to_owned() };
    EtcdClient::new(EtcdOptions { credentials: Some(credentials), ..cluster.options() }).unwrap()
}

async fn read(client: &EtcdClient, key: &'static str) -> Result<usize, EtcdError> {
    client.range(EtcdRange::key(key)).await.map(|result| result.entries.len())
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn user_gets_a_token_and_renews_it_when_members_have_forgotten_it() {
    let mut cluster = EtcdCluster::start(3).await;
    let client = client_as(&cluster, "app", "public");
    put(&client, "app/k", "1").await;
    enable_authentication(&mut cluster, "app/").await;
    // The client began when etcd required no user.
    put(&client, "app/k", "2").await;
    let mut watch = client.watch("app/", 1).await.unwrap();
    assert_eq!(changes(&next_batch(&mut watch).await), ["+app/k=1"]);
    // Members keep tokens in memory only.
    for member in 0..3 {
        cluster.kill(member).await;
        cluster.restart(member).await;
    }
    cluster.leader().await;
    within("a write", put(&client, "app/k", "3")).await;
    for member in 0..3 {
        cluster.kill(member).await;
        cluster.restart(member).await;
    }
    cluster.leader().await;
    let mut watch = client.watch("app/", 1).await.unwrap();
    for value in 1..=3 {
        assert_eq!(changes(&next_batch(&mut watch).await), [format!("+app/k={value}")]);
    }
    let lease = client.grant_lease(std::time::Duration::from_mins(1)).await.unwrap();
    client.keep_alive(lease).await.unwrap();
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn wrong_password_missing_user_and_missing_permission_are_told_apart() {
    let mut cluster = EtcdCluster::start(1).await;
    enable_authentication(&mut cluster, "app/").await;
    let error = read(&client_as(&cluster, "app", "wrong"), "app/k").await.unwrap_err();
    assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::AuthenticationFailed, true), "{error}");
    let error = read(&EtcdClient::new(EtcdOptions::new([cluster.endpoint(0)])).unwrap(), "app/k").await.unwrap_err();
    assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::AuthenticationFailed, true), "{error}");
    assert!(error.to_string().contains("requires a user, and none is configured"), "{error}");
    let app = client_as(&cluster, "app", "public");
    assert_eq!(read(&app, "app/k").await.unwrap(), 0);
    let error = read(&app, "other").await.unwrap_err();
    assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::PermissionDenied, true), "{error}");
    let error = match app.watch("other", 1).await {
        Ok(mut watch) => end_of(&mut watch).await,
        Err(error) => error,
    };
    assert_eq!(error.kind(), EtcdErrorKind::PermissionDenied, "{error}");
    put(&cluster.client(), "other", "1").await;
    // A password that etcd does not ask for is no error.
    let open = EtcdCluster::start(1).await;
    put(&client_as(&open, "root", "secret"), "k", "1").await;
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn cluster_with_client_certificates_accepts_the_right_one_only() {
    let ca = TestCa::open();
    let server = ca.server();
    let client_files = ca.issue("client", &[], |_| {});
    let cluster = EtcdCluster::start_with_tls(3, &ca, &server, &client_files).await;
    let client = cluster.client();
    let revision = put(&client, "k", "1").await;
    let mut watch = client.watch("k", revision).await.unwrap();
    assert_eq!(changes(&next_batch(&mut watch).await), ["+k=1"]);
    for _ in 0..2 {
        assert_eq!(watch.next().await.unwrap(), EtcdWatchEvent::Progress { revision });
    }
    put(&client, "k", "2").await;
    assert_eq!(changes(&next_batch(&mut watch).await), ["+k=2"]);

    let fails = |tls: EtcdTls, scheme: &str| {
        let endpoints = [cluster.endpoint(0).replace("https", scheme)];
        let client = EtcdClient::new(EtcdOptions { tls, ..EtcdOptions::new(endpoints) }).unwrap();
        async move { client.range(EtcdRange::key("k")).await.unwrap_err() }
    };
    let error = fails(EtcdTls { ca: Some(ca.ca()), certificate: None }, "https").await;
    assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::Unreachable, true), "{error}");
    // Old versions of Go reject the absence like a wrong certificate.
    let rejections = ["the server requires a client certificate", "the server rejected the client certificate"];
    assert!(rejections.iter().any(|rejection| error.to_string().contains(rejection)), "{error}");
    let other = TestCa::open();
    let error = fails(EtcdTls { ca: Some(other.ca()), certificate: None }, "https").await;
    assert!(error.to_string().contains("signed by an unknown authority"), "{error}");
    let stranger = other.issue("stranger", &[], |_| {});
    let certificate = Some((stranger.certificate, stranger.key));
    let error = fails(EtcdTls { ca: Some(ca.ca()), certificate }, "https").await;
    assert!(error.to_string().contains("the server rejected the client certificate"), "{error}");
    let error = fails(EtcdTls::default(), "http").await;
    assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::Unreachable, true), "{error}");
    assert_eq!(entries(&client, "k").await["k"], "2");
}
