//! The limit: a bare axum server, on one thread, that answers what it was taught.
//!
//! It reads what it is sent and does not look at it. What Callboard costs beyond it is what Callboard does. Whoever asks with an
//! index waits for the next write.

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
    ask::{pass, passing},
    line::{Line, fields, head, put as put_request},
};
use crate::children::Server;

/// As many connections as may wait to be accepted at Callboard's.
const BACKLOG: u32 = 4_096;
/// What hyper writes of its own accord.
const OF_HYPER: [&str; 3] = ["content-length", "date", "connection"];

/// Answers that were taken down, as they came.
#[derive(Debug, Clone)]
pub struct Taught {
    /// To whatever is written.
    pub write: Vec<u8>,
    /// To whatever is read.
    pub read: Vec<u8>,
}

/// Has the limit answer so from now on.
pub async fn teach(server: &Server, taught: &Taught) -> Result<()> {
    let mut line = Line::open(server.http()?).await?;
    line.ask(&put_request("/taught/write", &taught.write)).await?;
    line.ask(&put_request("/taught/read", &taught.read)).await?;
    for (request, taught) in [(pass(0), &taught.write), (passing(0, false), &taught.read)] {
        let told = line.whole(&request).await?;
        // The date and the spelling of names are its own, and no longer than Callboard's.
        let [told, taught] = [&told, taught].map(|answer| String::from_utf8_lossy(answer));
        ensure!(told.len() == taught.len(), "the limit was taught {taught}, and says {told}");
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
        .route("/taught/{kind}", put(learn))
        .route("/v1/agent/service/register", put(write))
        .route("/v1/agent/check/pass/{id}", put(write))
        .route("/v1/health/service/{name}", get(read))
        .with_state(Arc::new(Bare::new()));
    let listener = listener.tap_io(|stream| {
        // Without it, answers are late, which no figure can hide.
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, routes).await?)
}

/// All there is.
#[derive(Debug)]
struct Bare {
    write: OnceLock<Reply>,
    read: OnceLock<Reply>,
    /// How often something was written.
    index: watch::Sender<u64>,
}

#[derive(Debug)]
struct Reply {
    headers: HeaderMap,
    body: Bytes,
}

/// What is looked at of a query.
#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(default)]
    index: u64,
}

impl Bare {
    /// Indexes are as long as Callboard's are.
    fn new() -> Self {
        Self { write: OnceLock::new(), read: OnceLock::new(), index: watch::Sender::new(1_700_000_000 << 20) }
    }
}

impl Reply {
    fn parse(mut answer: Bytes) -> Result<Self> {
        let (length, head) = head(&answer)?.context("an answer without an end of its head")?;
        let mut headers = HeaderMap::new();
        for (name, value) in fields(head) {
            let name: HeaderName = name.parse()?;
            if !OF_HYPER.contains(&name.as_str()) {
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

/// An answer, or that there is none.
fn answer(reply: &OnceLock<Reply>) -> Response<Body> {
    let untaught = || {
        let mut response = Response::new(Body::from("nobody has taught me this answer"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        response
    };
    reply.get().map_or_else(untaught, Reply::response)
}

async fn learn(State(bare): State<Arc<Bare>>, Path(kind): Path<String>, taught: Bytes) -> StatusCode {
    let place = if kind == "write" { &bare.write } else { &bare.read };
    let Ok(reply) = Reply::parse(taught) else { return StatusCode::BAD_REQUEST };
    if place.set(reply).is_ok() { StatusCode::OK } else { StatusCode::CONFLICT }
}

async fn write(State(bare): State<Arc<Bare>>, _: Bytes) -> Response<Body> {
    bare.index.send_modify(|index| *index += 1);
    answer(&bare.write)
}

async fn read(State(bare): State<Arc<Bare>>, Query(asked): Query<Asked>) -> Response<Body> {
    let index = if asked.index == 0 {
        *bare.index.borrow()
    } else {
        let mut waiting = bare.index.subscribe();
        // It lives as long as the server does.
        waiting.wait_for(|index| *index > asked.index).await.map_or(asked.index, |index| *index)
    };
    let mut response = answer(&bare.read);
    response.headers_mut().insert("x-consul-index", HeaderValue::from(index));
    response
}
