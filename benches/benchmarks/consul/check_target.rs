//! Target of health checks: a small HTTP server on this thread.

use std::{
    cell::{Cell, RefCell},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Instant,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

use super::http_connection::head;
use crate::now;

const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
const BAD: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad";
const BACKLOG: u32 = 4_096;

/// Target server, closed on drop.
#[derive(Debug)]
pub struct CheckTarget {
    ports: Vec<SocketAddr>,
    seen: Rc<Seen>,
    _tasks: JoinSet<()>,
}

/// Behaviour of the target, and the probes it has received.
#[derive(Debug, Default)]
struct Seen {
    /// Set while probes are answered with 500.
    fails: Cell<bool>,
    /// Time of the first such answer.
    failed: Cell<Option<Instant>>,
    /// Number of the check and time of each probe.
    probes: RefCell<Vec<(usize, Instant)>>,
}

impl CheckTarget {
    /// Opens this number of ports; one port would run out of ports in the state `TIME_WAIT`.
    pub fn open(ports: usize) -> Result<Self> {
        let (seen, mut tasks, mut addresses) = (Rc::new(Seen::default()), JoinSet::new(), Vec::new());
        for _ in 0..ports {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            let listener = socket.listen(BACKLOG)?;
            addresses.push(listener.local_addr()?);
            tasks.spawn_local(serve(listener, Rc::clone(&seen)));
        }
        Ok(Self { ports: addresses, seen, _tasks: tasks })
    }

    /// Returns the definition of the `n`th check.
    pub fn check(&self, n: usize, interval: &str) -> Value {
        let url = format!("http://{}/{n}", self.ports[n % self.ports.len()]);
        json!({ "HTTP": url, "Interval": interval, "Timeout": "1s" })
    }

    /// Answers probes with 500 from now on, or with 200.
    pub fn fail(&self, fails: bool) {
        self.seen.fails.set(fails);
        self.seen.failed.set(None);
    }

    /// Returns the time of the first answer of 500.
    pub fn failed(&self) -> Result<Instant> {
        self.seen.failed.get().context("no probe was answered with 500")
    }

    /// Returns the number of the check and the time of each probe.
    pub fn probes(&self) -> Vec<(usize, Instant)> {
        self.seen.probes.borrow().clone()
    }
}

async fn serve(listener: TcpListener, seen: Rc<Seen>) {
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            // A probe without an answer fails its check, which the measurement notices.
            Ok((stream, _)) = listener.accept() => { answering.spawn_local(answer(stream, Rc::clone(&seen))); }
            Some(_) = answering.join_next() => {}
        }
    }
}

async fn answer(mut stream: TcpStream, seen: Rc<Seen>) -> Result<()> {
    let mut request = Vec::with_capacity(1_024);
    let check = loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        if let Some((_, head)) = head(&request)? {
            let path = head.split(' ').nth(1).and_then(|path| path.strip_prefix('/'));
            break path.context("a request without a path")?.parse()?;
        }
    };
    let at = now();
    seen.probes.borrow_mut().push((check, at));
    let fails = seen.fails.get();
    if fails && seen.failed.get().is_none() {
        seen.failed.set(Some(at));
    }
    Ok(stream.write_all(if fails { BAD } else { GOOD }).await?)
}
