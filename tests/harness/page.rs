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
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
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
    asked: Mutex<Vec<PageRequest>>,
    routes: Routes,
}

/// Answers of the paths that have one of their own.
pub type Routes = fn(&str) -> Option<PageAnswer>;

/// A request that was received.
#[derive(Debug, Clone)]
pub struct PageRequest {
    pub method: String,
    pub path: String,
    /// In their order and spelling.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl PageRequest {
    /// Values of a header, whatever its spelling.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let of_name = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        of_name.map(|(_, value)| value.as_str()).collect()
    }
}

/// An answer.
#[derive(Debug)]
pub struct PageAnswer {
    /// With its words.
    pub status: &'static str,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Page {
    pub async fn open() -> Self {
        Self::open_with(|_| None).await
    }

    pub async fn open_with(routes: Routes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { status: AtomicU16::new(200), asked: Mutex::default(), routes });
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
        self.shared.asked.lock().unwrap().iter().any(|asked| asked.path == path)
    }

    /// Requests so far.
    pub fn requests(&self) -> Vec<PageRequest> {
        self.shared.asked.lock().unwrap().clone()
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
    let Some(request) = receive(&mut stream).await? else { return Ok(()) };
    let PageAnswer { status, headers, body } =
        (shared.routes)(&request.path).unwrap_or_else(|| usual(shared.status.load(Ordering::Relaxed)));
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let body = if request.method == "HEAD" { String::new() } else { body };
    shared.asked.lock().unwrap().push(request);
    let head = format!("Content-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close");
    stream.write_all(format!("HTTP/1.1 {status}\r\n{headers}{head}\r\n\r\n{body}").as_bytes()).await
}

fn usual(status: u16) -> PageAnswer {
    let status = match status {
        200 => "200 OK",
        429 => "429 Too Many Requests",
        500 => "500 Internal Server Error",
        other => panic!("{other} has no words here"),
    };
    PageAnswer { status, headers: Vec::new(), body: "ok".to_owned() }
}

/// None: the connection ended before a whole request.
async fn receive(stream: &mut BufReader<TcpStream>) -> io::Result<Option<PageRequest>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let pair = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let headers = lines.filter_map(pair).collect();
    let mut request = PageRequest { method, path, headers, body: String::new() };
    let length = request.header("content-length").first().and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(request))
}
