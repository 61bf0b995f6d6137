use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

use std::time::Duration;

use crate::model::{CheckId, HttpProbe};

/// A check that makes this probe, within 5 s.
fn check(probe: Probe) -> CheckDefinition {
    CheckDefinition {
        timeout: Duration::from_secs(5),
        ..CheckDefinition::new(CheckId::parse("c").unwrap(), "c", probe)
    }
}

async fn made(probe: Probe) -> (CheckStatus, String) {
    Prober::new(ProbePolicy::default()).make(&check(probe)).await
}

/// A server that answers each connection with this, whatever it is asked.
async fn answering(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 1024]).await;
                let _ = socket.write_all(answer).await;
            });
        }
    });
    port
}

async fn get(url: &str) -> (CheckStatus, String) {
    made(Probe::Http(HttpProbe::get(url))).await
}

#[tokio::test]
async fn what_is_answered_is_what_is_found() {
    let cases: [(&'static [u8], CheckStatus, &str); 5] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", CheckStatus::Passing, "200 OK Output: ok"),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\nslow", CheckStatus::Warning, "429 Too Many Requests Output: slow"),
        (b"HTTP/1.0 500 x\r\n\r\n\xff", CheckStatus::Critical, "500 x Output: \u{fffd}"),
        (b"HTTP/1.1 302 Found\r\n\r\n", CheckStatus::Critical, "302 Found Output: "),
        (b"what?\r\n\r\n", CheckStatus::Critical, "invalid HTTP"),
    ];
    for (answer, verdict, says) in cases {
        let port = answering(answer).await;
        let (found, output) = get(&format!("http://127.0.0.1:{port}/health?x=1")).await;
        assert_eq!(found, verdict, "{output}");
        assert!(output.contains(says), "{output}");
        assert!(output.contains(&format!("http://127.0.0.1:{port}/health?x=1")), "{output}");
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_read_as_far_as_it_is_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while socket.write_all(&[b'x'; 1024]).await.is_ok() {}
    });
    let (found, output) = get(&format!("http://127.0.0.1:{port}/")).await;
    assert_eq!((found, output.matches('x').count()), (CheckStatus::Passing, 4_096));
}

#[tokio::test]
async fn nobody_there_is_critical_and_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = Probe::Tcp { target: ProbeTarget { host: "localhost".into(), port }, tls: None };
    assert_eq!(made(probe.clone()).await.0, CheckStatus::Passing, "whichever address of that name it is");
    drop(listener);
    let (found, output) = made(probe).await;
    assert_eq!(found, CheckStatus::Critical);
    assert!(output.contains("connect: connection refused"), "{output}");
    let (found, output) = get("http://169.254.169.254/latest/meta-data").await;
    assert_eq!(found, CheckStatus::Critical);
    assert!(output.contains("no check goes to"), "{output}");
}

#[tokio::test]
async fn an_answer_that_stops_says_what_it_said_so_far() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let check = CheckDefinition { timeout: Duration::from_millis(300), ..check(Probe::Http(HttpProbe::get(&url))) };
    let making = tokio::spawn(async move {
        let prober = Prober::new(ProbePolicy::default());
        [prober.make(&check).await, prober.make(&check).await]
    });
    let (mut first, _) = listener.accept().await.unwrap();
    first.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nso far").await.unwrap();
    let (_second, _) = listener.accept().await.unwrap();
    let [stopped, silent] = making.await.unwrap();
    assert_eq!(stopped.0, CheckStatus::Passing);
    assert!(stopped.1.ends_with("200 OK Output: so far"), "{stopped:?}");
    assert_eq!(silent.0, CheckStatus::Critical);
    assert!(silent.1.ends_with("no answer within 300ms"), "{silent:?}");
}

#[tokio::test]
async fn all_that_was_given_is_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}?ready=1#part", listener.local_addr().unwrap());
    let headers =
        [("x-a", "1"), ("Host", "web"), ("X-A", "2"), ("host", "no")].map(|(name, value)| (name.into(), value.into()));
    let probe = Probe::Http(HttpProbe { headers: headers.into(), ..HttpProbe::get(&url) });
    let making = tokio::spawn(async move { made(probe).await });
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut bytes = vec![0; 1024];
    let length = socket.read(&mut bytes).await.unwrap();
    let asked = String::from_utf8_lossy(&bytes[..length]).to_lowercase();
    assert!(asked.starts_with("get /?ready=1 http/1.1\r\nhost: web\r\n"), "{asked}");
    assert!(asked.contains("x-a: 1\r\nx-a: 2\r\n") && !asked.contains("no\r\n"), "{asked}");
    socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    drop(socket);
    assert_eq!(making.await.unwrap().0, CheckStatus::Passing);
}

#[tokio::test]
async fn redirect_of_exposed_registry_may_not_leave_the_checked_address() {
    let other = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let location = format!("http://{}/", other.local_addr().unwrap());
    let answer = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\n\r\n");
    let port = answering(answer.leak().as_bytes()).await;
    let rules = ProbePolicy { exposed: true, allowed: vec!["127.0.0.0/8".parse().unwrap()] };
    let request = Probe::Http(HttpProbe::get(&format!("http://127.0.0.1:{port}/")));
    let (found, output) = Prober::new(rules).make(&check(request)).await;
    assert_eq!(found, CheckStatus::Critical);
    assert!(output.starts_with(&format!("Get \"{location}\": dial tcp")), "{output}");
    assert!(output.contains("127.0.0.2 is not the address of the instance that is checked"), "{output}");
}

#[tokio::test]
async fn body_is_shown_up_to_the_limit_from_its_end_in_whole_characters() {
    let port = answering("HTTP/1.1 200 OK\r\n\r\naüü".as_bytes()).await;
    for (limit, shown) in [(1, ""), (2, "ü"), (3, "ü"), (4, "üü"), (5, "aüü"), (9, "aüü")] {
        let probe = Probe::Http(HttpProbe::get(&format!("http://127.0.0.1:{port}/")));
        let check = CheckDefinition { output_max_size: limit, ..check(probe) };
        let (_, output) = Prober::new(ProbePolicy::default()).make(&check).await;
        assert_eq!(output, format!("HTTP GET http://127.0.0.1:{port}/: 200 OK Output: {shown}"), "{limit}");
    }
    let port = answering(b"HTTP/1.1 200 OK\r\n\r\n\xff\xff\xff\xff").await;
    let probe = Probe::Http(HttpProbe::get(&format!("http://127.0.0.1:{port}/")));
    let check = CheckDefinition { output_max_size: 4, ..check(probe) };
    let (_, output) = Prober::new(ProbePolicy::default()).make(&check).await;
    assert!(output.ends_with("Output: \u{fffd}"), "what stands for a byte is longer than that: {output}");
}

#[tokio::test]
async fn answer_with_an_endless_head_or_redirect_is_critical() {
    let endless: &'static str = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1024 * 1024)).leak();
    let (found, _) = get(&format!("http://127.0.0.1:{}/", answering(endless.as_bytes()).await)).await;
    assert_eq!(found, CheckStatus::Critical);
    let long: &'static str = format!("HTTP/1.1 302 Found\r\nLocation: /{}\r\n\r\n", "x".repeat(10_000)).leak();
    let (found, output) = get(&format!("http://127.0.0.1:{}/", answering(long.as_bytes()).await)).await;
    assert_eq!(found, CheckStatus::Critical);
    assert!(output.ends_with("the redirect leads to a URL of 10001 bytes: at most 8192 are followed"), "{output}");
}

#[tokio::test]
async fn connect_method_is_answered_like_any_other() {
    let port = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let request = HttpProbe::get(&format!("http://127.0.0.1:{port}/x")).with_method("CONNECT");
    let (found, output) = made(Probe::Http(request)).await;
    assert_eq!(found, CheckStatus::Passing, "{output}");
}
