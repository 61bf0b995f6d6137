//! HTTP server as a target of health checks.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    sync::Notify,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{CertFiles, within};

/// Answers `ok` with a status that tests set (200 at first), or the response that a test has set for a path. Dropping it closes its port.
#[derive(Debug)]
pub struct Page {
    pub address: SocketAddr,
    shared: Arc<PageState>,
    _serving: JoinSet<()>,
}

#[derive(Debug)]
struct PageState {
    status: AtomicU16,
    asked: Mutex<Vec<PageRequest>>,
    /// Notified of each request.
    arrived: Notify,
    routes: Routes,
    /// Whole responses as bytes, by path and query. They take precedence over `routes`.
    answers: Mutex<HashMap<String, Vec<u8>>>,
}

/// Answers of the paths that have one of their own.
pub type Routes = fn(&str) -> Option<PageAnswer>;

/// A request that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    pub method: String,
    pub path: String,
    /// Headers in their order and spelling.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl PageRequest {
    /// Returns the values of a header, in any spelling.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let of_name = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        of_name.map(|(_, value)| value.as_str()).collect()
    }
}

/// Response of a page.
#[derive(Debug)]
pub struct PageAnswer {
    /// Status code and reason phrase.
    pub status: &'static str,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Page {
    pub async fn open() -> Self {
        Self::open_with(|_| None).await
    }

    pub async fn open_with(routes: Routes) -> Self {
        Self::serve("127.0.0.1:0", None, routes).await
    }

    pub async fn open_at(address: &str) -> Self {
        Self::serve(address, None, |_| None).await
    }

    /// Opens a page over TLS.
    pub async fn open_tls(files: &CertFiles) -> Self {
        let chain = CertificateDer::pem_file_iter(&files.certificate).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let tls = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
        Self::serve("127.0.0.1:0", Some(tls), |_| None).await
    }

    async fn serve(address: &str, tls: Option<TlsAcceptor>, routes: Routes) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(PageState {
            status: AtomicU16::new(200),
            asked: Mutex::default(),
            arrived: Notify::new(),
            routes,
            answers: Mutex::default(),
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, tls, Arc::clone(&shared)));
        Self { address, shared, _serving: serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Sets the status of later responses: 200, 429 or 500.
    pub fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::Relaxed);
    }

    /// Answers requests for a path and query with these bytes, from now on.
    pub fn answer_at(&self, path: &str, answer: impl Into<Vec<u8>>) {
        self.shared.answers.lock().unwrap().insert(path.to_owned(), answer.into());
    }

    /// Redirects requests for a path and query, from now on.
    pub fn redirect(&self, path: &str, status: u16, location: &str) {
        self.answer_at(path, format!("HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"));
    }

    pub fn was_asked(&self, path: &str) -> bool {
        !self.requests_for(path).is_empty()
    }

    /// Returns the requests for a path and query so far.
    pub fn requests_for(&self, path: &str) -> Vec<PageRequest> {
        self.shared.asked.lock().unwrap().iter().filter(|asked| asked.path == path).cloned().collect()
    }

    /// Waits for the first request for a path and query.
    pub async fn first_request(&self, path: &str) -> PageRequest {
        let first = async {
            loop {
                let mut arrived = pin!(self.shared.arrived.notified());
                arrived.as_mut().enable();
                if let Some(request) = self.requests_for(path).into_iter().next() {
                    return request;
                }
                arrived.await;
            }
        };
        within(path, first).await
    }

    /// Returns the requests so far.
    pub fn requests(&self) -> Vec<PageRequest> {
        self.shared.asked.lock().unwrap().clone()
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<PageState>) {
    while let Ok((stream, _)) = listener.accept().await {
        // A probe without an answer fails, and the test that waits for it tells.
        let _ = match &tls {
            None => answer(stream, &shared).await,
            Some(tls) => match tls.accept(stream).await {
                Ok(stream) => answer(stream, &shared).await,
                Err(error) => Err(error),
            },
        };
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, shared: &PageState) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let Some(request) = receive(&mut stream).await? else { return Ok(()) };
    let given = shared.answers.lock().unwrap().get(&request.path).cloned();
    let answer = given.unwrap_or_else(|| {
        let answer = (shared.routes)(&request.path);
        answer.unwrap_or_else(|| usual(shared.status.load(Ordering::Relaxed))).bytes(&request.method)
    });
    shared.asked.lock().unwrap().push(request);
    shared.arrived.notify_waiters();
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

impl PageAnswer {
    /// Returns the bytes of the response to a request with this method.
    fn bytes(self, method: &str) -> Vec<u8> {
        let Self { status, headers, body } = self;
        let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let headers = headers.concat();
        let length = body.len();
        let body = if method == "HEAD" { String::new() } else { body };
        let head = format!("Content-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close");
        format!("HTTP/1.1 {status}\r\n{headers}{head}\r\n\r\n{body}").into_bytes()
    }
}

fn usual(status: u16) -> PageAnswer {
    let status = match status {
        200 => "200 OK",
        429 => "429 Too Many Requests",
        500 => "500 Internal Server Error",
        other => panic!("{other} has no reason phrase here"),
    };
    PageAnswer { status, headers: Vec::new(), body: "ok".to_owned() }
}

/// None: the connection ended before a whole request.
async fn receive(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<PageRequest>> {
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
