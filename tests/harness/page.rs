//! An HTTP server for health checks to look at.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Answers `ok` with the status that it is told, 200 at first. Dropping it closes its port.
#[derive(Debug)]
pub struct Page {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    status: AtomicU16,
    asked: Mutex<Vec<String>>,
}

impl Page {
    pub async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { status: AtomicU16::new(200), asked: Mutex::default() });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&shared)));
        Self { address, shared, _serving: serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// 200, 429 or 500, from now on.
    pub fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::Relaxed);
    }

    pub fn was_asked(&self, path: &str) -> bool {
        self.shared.asked.lock().unwrap().iter().any(|asked| asked == path)
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        // A probe without an answer fails, and the test that waits for it tells.
        let _ = answer(stream, &shared).await;
    }
}

async fn answer(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        if stream.read_line(&mut request).await? == 0 {
            return Ok(());
        }
    }
    shared.asked.lock().unwrap().extend(request.split(' ').nth(1).map(str::to_owned));
    let status = match shared.status.load(Ordering::Relaxed) {
        200 => "200 OK",
        429 => "429 Too Many Requests",
        500 => "500 Internal Server Error",
        other => panic!("{other} has no words here"),
    };
    let head = "Content-Type: text/plain\r\nContent-Length: 2\r\nConnection: close";
    stream.write_all(format!("HTTP/1.1 {status}\r\n{head}\r\n\r\nok").as_bytes()).await
}
