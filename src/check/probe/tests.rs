use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

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

async fn get(url: &str) -> (Verdict, String) {
    let probe = Probe::Http { url: url.into(), headers: Box::default(), tls: ProbeTls::default() };
    Prober::new(Rules::default()).make(&probe).await
}

#[tokio::test]
async fn what_is_answered_is_what_is_found() {
    let cases: [(&'static [u8], Verdict, &str); 5] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Verdict::Passing, "200 OK Output: ok"),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\nslow", Verdict::Warning, "429 Too Many Requests Output: slow"),
        (b"HTTP/1.0 500 x\r\n\r\n\xff", Verdict::Critical, "500 Internal Server Error Output: \u{fffd}"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n", Verdict::Critical, "302 Found Output: "),
        (b"what?\r\n\r\n", Verdict::Critical, "invalid HTTP"),
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
    assert_eq!((found, output.matches('x').count()), (Verdict::Passing, 4_096));
}

#[tokio::test]
async fn nobody_there_is_critical_and_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = Probe::Tcp { target: Target { host: "localhost".into(), port }, tls: None };
    let prober = Prober::new(Rules::default());
    assert_eq!(prober.make(&probe).await.0, Verdict::Passing, "whichever address of that name it is");
    drop(listener);
    let (found, output) = prober.make(&probe).await;
    assert_eq!(found, Verdict::Critical);
    assert!(output.contains("connect: connection refused"), "{output}");
    let (found, output) = get("http://169.254.169.254/latest/meta-data").await;
    assert_eq!(found, Verdict::Critical);
    assert!(output.contains("no check goes to"), "{output}");
}
