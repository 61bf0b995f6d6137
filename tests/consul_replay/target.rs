//! What the recording's health checks look at.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

/// Where the recording's target listened, for HTTP and for those who only connect.
const RECORDED: &str = "48901";

/// An HTTP server that answers what it is told to, and a port that opens when it is told to.
#[derive(Debug)]
pub struct Target {
    http: SocketAddr,
    port: SocketAddr,
    closed: Option<TcpSocket>,
    status: Arc<AtomicU16>,
    /// The paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    tasks: JoinSet<()>,
}

impl Target {
    pub async fn open() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::bind(any).await.unwrap();
        // Bound, so that nobody else takes it, but not listening yet: who connects is refused.
        let closed = TcpSocket::new_v4().unwrap();
        closed.bind(any).unwrap();
        let (http, port) = (listener.local_addr().unwrap(), closed.local_addr().unwrap());
        let (status, asked) = (Arc::new(AtomicU16::new(200)), Arc::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&status), Arc::clone(&asked)));
        Self { http, port, closed: Some(closed), status, asked, tasks }
    }

    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    pub fn was_asked(&self, path: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked == path)
    }

    /// Lets who only connects connect. The recording has the order in which two checks first passed, which is chance unless one
    /// of them is held back.
    pub fn open_port(&mut self) {
        let listener = self.closed.take().unwrap().listen(64).unwrap();
        self.tasks.spawn(async move { while listener.accept().await.is_ok() {} });
    }

    /// A recorded request, of this target.
    pub fn here(&self, recorded: &str) -> String {
        let connects = (format!("\"TCP\":\"127.0.0.1:{RECORDED}\""), format!("\"TCP\":\"{}\"", self.port));
        recorded.replace(&connects.0, &connects.1).replace(RECORDED, &self.http.port().to_string())
    }

    /// An answer, as if it were of the recorded target.
    pub fn there(&self, answer: &str) -> String {
        let ports = [self.http, self.port].map(|address| address.port().to_string());
        ports.iter().fold(answer.to_owned(), |answer, port| answer.replace(port, RECORDED))
    }
}

async fn serve(listener: TcpListener, status: Arc<AtomicU16>, asked: Arc<Mutex<Vec<String>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        // A probe that is not answered fails, and the test with it.
        let _ = answer(stream, &status, &asked).await;
    }
}

async fn answer(stream: TcpStream, status: &AtomicU16, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        if stream.read_line(&mut request).await? == 0 {
            return Ok(());
        }
    }
    asked.lock().unwrap().extend(request.split(' ').nth(1).map(str::to_owned));
    let status = match status.load(Ordering::Relaxed) {
        200 => "200 OK",
        429 => "429 Too Many Requests",
        500 => "500 Internal Server Error",
        other => panic!("{other} has no reason phrase here"),
    };
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    stream.write_all(answer.as_bytes()).await
}
