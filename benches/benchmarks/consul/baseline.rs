//! Baseline: a minimal axum server on one thread that answers what was recorded from Callboard.
//!
//! It reads requests without parsing their bodies, so the difference to Callboard is the cost of Callboard's own work. A request
//! with an index waits for the next write.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
};

use anyhow::{Context, Result, ensure};
use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode},
    routing::{get, put},
    serve::ListenerExt,
};
use bytes::Bytes;
use serde::Deserialize;
use tokio::{net::TcpSocket, sync::watch};

use super::{
    http_connection::{HttpConnection, fields, head, put as put_request},
    requests::{pass_check, read_passing},
};
use crate::processes::Server;

/// Accept queue, as long as Callboard's.
const BACKLOG: u32 = 4_096;
/// Headers that hyper adds itself.
const HYPER_HEADERS: [&str; 3] = ["content-length", "date", "connection"];

/// Recorded answers, byte for byte.
#[derive(Debug, Clone)]
pub struct RecordedAnswers {
    /// Answer to every write.
    pub write: Vec<u8>,
    /// Answer to every read.
    pub read: Vec<u8>,
}

/// Installs the answers in a running baseline.
pub async fn install(server: &Server, recorded: &RecordedAnswers) -> Result<()> {
    let mut connection = HttpConnection::open(server.http()?).await?;
    connection.ask(&put_request("/recorded/write", &recorded.write)).await?;
    connection.ask(&put_request("/recorded/read", &recorded.read)).await?;
    for (request, expected) in [(pass_check(0), &recorded.write), (read_passing(0, false), &recorded.read)] {
        let answer = connection.whole(&request).await?;
        // The date and the case of header names differ, but not their lengths.
        let [answer, expected] = [&answer, expected].map(|answer| String::from_utf8_lossy(answer));
        ensure!(answer.len() == expected.len(), "the baseline recorded {expected}, but answers {answer}");
    }
    Ok(())
}

/// Serves until killed.
pub async fn serve() -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let listener = socket.listen(BACKLOG)?;
    println!("{}", serde_json::json!({ "http": listener.local_addr()?.to_string() }));
    std::io::stdout().flush()?;
    let routes = Router::new()
        .route("/recorded/{kind}", put(record))
        .route("/v1/agent/service/register", put(write))
        .route("/v1/agent/check/pass/{id}", put(write))
        .route("/v1/health/service/{name}", get(read))
        .with_state(Arc::new(BaselineAnswers::new()));
    let listener = listener.tap_io(|stream| {
        // Without it, Nagle's algorithm would delay answers.
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, routes).await?)
}

/// State of the baseline.
#[derive(Debug)]
struct BaselineAnswers {
    write: OnceLock<RecordedAnswer>,
    read: OnceLock<RecordedAnswer>,
    /// Index, increased by each write.
    index: watch::Sender<u64>,
}

#[derive(Debug)]
struct RecordedAnswer {
    headers: HeaderMap,
    body: Bytes,
}

/// Parameters of a query.
#[derive(Debug, Deserialize)]
struct IndexQuery {
    #[serde(default)]
    index: u64,
}

impl BaselineAnswers {
    /// Starts at an index that is as long as Callboard's.
    fn new() -> Self {
        Self { write: OnceLock::new(), read: OnceLock::new(), index: watch::Sender::new(1_700_000_000 << 20) }
    }
}

impl RecordedAnswer {
    fn parse(mut answer: Bytes) -> Result<Self> {
        let (length, head) = head(&answer)?.context("a recorded answer has an incomplete head")?;
        let mut headers = HeaderMap::new();
        for (name, value) in fields(head) {
            let name: HeaderName = name.parse()?;
            if !HYPER_HEADERS.contains(&name.as_str()) {
                headers.insert(name, value.parse()?);
            }
        }
        Ok(Self { headers, body: answer.split_off(length) })
    }

    fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body.clone()));
        response.headers_mut().clone_from(&self.headers);
        response
    }
}

/// Returns the recorded answer, or 404.
fn answer(reply: &OnceLock<RecordedAnswer>) -> Response<Body> {
    let missing = || {
        let mut response = Response::new(Body::from("no answer is recorded"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        response
    };
    reply.get().map_or_else(missing, RecordedAnswer::response)
}

async fn record(State(state): State<Arc<BaselineAnswers>>, Path(kind): Path<String>, answer: Bytes) -> StatusCode {
    let reply_cell = if kind == "write" { &state.write } else { &state.read };
    let Ok(reply) = RecordedAnswer::parse(answer) else { return StatusCode::BAD_REQUEST };
    if reply_cell.set(reply).is_ok() { StatusCode::OK } else { StatusCode::CONFLICT }
}

async fn write(State(state): State<Arc<BaselineAnswers>>, _: Bytes) -> Response<Body> {
    state.index.send_modify(|index| *index += 1);
    answer(&state.write)
}

async fn read(State(state): State<Arc<BaselineAnswers>>, Query(query): Query<IndexQuery>) -> Response<Body> {
    let index = if query.index == 0 {
        *state.index.borrow()
    } else {
        let mut waiting = state.index.subscribe();
        // The sender lives as long as the server.
        waiting.wait_for(|index| *index > query.index).await.map_or(query.index, |index| *index)
    };
    let mut response = answer(&state.read);
    response.headers_mut().insert("x-consul-index", HeaderValue::from(index));
    response
}
