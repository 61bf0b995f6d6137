use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::model::{CheckId, HttpProbe};

/// Returns a check with this probe and a timeout of 5 s.
fn check(probe: Probe) -> CheckDefinition {
    CheckDefinition {
        timeout: Duration::from_secs(5),
        ..CheckDefinition::new(CheckId::parse("c").unwrap(), "c", probe)
    }
}

async fn result(probe: Probe) -> (CheckStatus, String) {
    Prober::new(ProbePolicy::default()).probe(&check(probe)).await
}

/// Starts a server that sends `response` on each connection. Returns its port.
async fn serve(response: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 1024]).await;
                let _ = socket.write_all(response).await;
            });
        }
    });
    port
}

async fn get(url: &str) -> (CheckStatus, String) {
    result(Probe::Http(HttpProbe::get(url))).await
}

#[tokio::test]
async fn response_code_decides_the_status() {
    let cases: [(&'static [u8], CheckStatus, &str); 5] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", CheckStatus::Passing, "200 OK Output: ok"),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\nslow", CheckStatus::Warning, "429 Too Many Requests Output: slow"),
        (b"HTTP/1.0 500 x\r\n\r\n\xff", CheckStatus::Critical, "500 x Output: \u{fffd}"),
        (b"HTTP/1.1 302 Found\r\n\r\n", CheckStatus::Critical, "302 Found Output: "),
        (b"invalid\r\n\r\n", CheckStatus::Critical, "invalid HTTP"),
    ];
    for (response, expected, text) in cases {
        let port = serve(response).await;
        let (status, output) = get(&format!("http://127.0.0.1:{port}/health?x=1")).await;
        assert_eq!(status, expected, "{output}");
        assert!(output.contains(text), "{output}");
        assert!(output.contains(&format!("http://127.0.0.1:{port}/health?x=1")), "{output}");
    }
}

#[tokio::test]
async fn endless_body_is_read_up_to_the_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while socket.write_all(&[b'x'; 1024]).await.is_ok() {}
    });
    let (status, output) = get(&format!("http://127.0.0.1:{port}/")).await;
    assert_eq!((status, output.matches('x').count()), (CheckStatus::Passing, 4_096));
}

#[tokio::test]
async fn refused_or_forbidden_connection_is_critical_with_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = Probe::Tcp { target: ProbeTarget { host: "localhost".into(), port }, tls: None };
    assert_eq!(result(probe.clone()).await.0, CheckStatus::Passing, "one of the addresses of the name accepts");
    drop(listener);
    let (status, output) = result(probe).await;
    assert_eq!(status, CheckStatus::Critical);
    assert!(output.contains("connect: connection refused"), "{output}");
    let (status, output) = get("http://169.254.169.254/latest/meta-data").await;
    assert_eq!(status, CheckStatus::Critical);
    assert!(output.contains("is not allowed for checks"), "{output}");
}

#[tokio::test]
async fn timeout_in_the_body_keeps_status_and_partial_output() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let check = CheckDefinition { timeout: Duration::from_millis(300), ..check(Probe::Http(HttpProbe::get(&url))) };
    let probing = tokio::spawn(async move {
        let prober = Prober::new(ProbePolicy::default());
        [prober.probe(&check).await, prober.probe(&check).await]
    });
    let (mut first, _) = listener.accept().await.unwrap();
    first.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nso far").await.unwrap();
    let (_second, _) = listener.accept().await.unwrap();
    let [partial, silent] = probing.await.unwrap();
    assert_eq!(partial.0, CheckStatus::Passing);
    assert!(partial.1.ends_with("200 OK Output: so far"), "{partial:?}");
    assert_eq!(silent.0, CheckStatus::Critical);
    assert!(silent.1.ends_with("no answer within 300ms"), "{silent:?}");
}

#[tokio::test]
async fn request_has_query_host_and_repeated_headers_of_the_check() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}?ready=1#part", listener.local_addr().unwrap());
    let headers =
        [("x-a", "1"), ("Host", "web"), ("X-A", "2"), ("host", "no")].map(|(name, value)| (name.into(), value.into()));
    let probe = Probe::Http(HttpProbe { headers: headers.into(), ..HttpProbe::get(&url) });
    let probing = tokio::spawn(async move { result(probe).await });
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut bytes = vec![0; 1024];
    let length = socket.read(&mut bytes).await.unwrap();
    let request = String::from_utf8_lossy(&bytes[..length]).to_lowercase();
    assert!(request.starts_with("get /?ready=1 http/1.1\r\nhost: web\r\n"), "{request}");
    assert!(request.contains("x-a: 1\r\nx-a: 2\r\n") && !request.contains("no\r\n"), "{request}");
    socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    drop(socket);
    assert_eq!(probing.await.unwrap().0, CheckStatus::Passing);
}

#[tokio::test]
async fn redirect_to_another_address_is_critical_in_an_exposed_registry() {
    let other = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let location = format!("http://{}/", other.local_addr().unwrap());
    let response = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\n\r\n");
    let port = serve(response.leak().as_bytes()).await;
    let policy = ProbePolicy { exposed: true, allowed: vec!["127.0.0.0/8".parse().unwrap()] };
    let request = Probe::Http(HttpProbe::get(&format!("http://127.0.0.1:{port}/")));
    let (status, output) = Prober::new(policy).probe(&check(request)).await;
    assert_eq!(status, CheckStatus::Critical);
    assert!(output.starts_with(&format!("Get \"{location}\": dial tcp")), "{output}");
    assert!(output.contains("127.0.0.2 is not the address of the checked instance"), "{output}");
}

#[tokio::test]
async fn output_has_the_last_whole_characters_within_the_limit() {
    let port = serve("HTTP/1.1 200 OK\r\n\r\naüü".as_bytes()).await;
    for (limit, shown) in [(1, ""), (2, "ü"), (3, "ü"), (4, "üü"), (5, "aüü"), (9, "aüü")] {
        let probe = Probe::Http(HttpProbe::get(&format!("http://127.0.0.1:{port}/")));
        let check = CheckDefinition { output_max_size: limit, ..check(probe) };
        let (_, output) = Prober::new(ProbePolicy::default()).probe(&check).await;
        assert_eq!(output, format!("HTTP GET http://127.0.0.1:{port}/: 200 OK Output: {shown}"), "{limit}");
    }
    let port = serve(b"HTTP/1.1 200 OK\r\n\r\n\xff\xff\xff\xff").await;
    let probe = Probe::Http(HttpProbe::get(&format!("http://127.0.0.1:{port}/")));
    let check = CheckDefinition { output_max_size: 4, ..check(probe) };
    let (_, output) = Prober::new(ProbePolicy::default()).probe(&check).await;
    assert!(output.ends_with("Output: \u{fffd}"), "the replacement character has 3 bytes: {output}");
}

#[tokio::test]
async fn response_with_too_large_head_or_location_is_critical() {
    let endless: &'static str = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1024 * 1024)).leak();
    let (status, _) = get(&format!("http://127.0.0.1:{}/", serve(endless.as_bytes()).await)).await;
    assert_eq!(status, CheckStatus::Critical);
    let long: &'static str = format!("HTTP/1.1 302 Found\r\nLocation: /{}\r\n\r\n", "x".repeat(10_000)).leak();
    let (status, output) = get(&format!("http://127.0.0.1:{}/", serve(long.as_bytes()).await)).await;
    assert_eq!(status, CheckStatus::Critical);
    assert!(output.ends_with("redirect to a URL of 10001 bytes: the limit is 8192"), "{output}");
}

#[tokio::test]
async fn response_to_connect_method_is_read_like_others() {
    let port = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let request = HttpProbe::get(&format!("http://127.0.0.1:{port}/x")).with_method("CONNECT");
    let (status, output) = result(Probe::Http(request)).await;
    assert_eq!(status, CheckStatus::Passing, "{output}");
}
