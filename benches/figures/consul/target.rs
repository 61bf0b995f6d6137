//! What health checks look at: a small HTTP server on this thread.

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

use super::line::head;
use crate::now;

const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
const BAD: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad";
const BACKLOG: u32 = 4_096;

/// Ends when it is dropped.
#[derive(Debug)]
pub struct Target {
    ports: Vec<SocketAddr>,
    seen: Rc<Seen>,
    _tasks: JoinSet<()>,
}

/// What it is to do, and what it has seen.
#[derive(Debug, Default)]
struct Seen {
    /// Whoever asks now is told that it does not work.
    fails: Cell<bool>,
    /// When the first was told so.
    failed: Cell<Option<Instant>>,
    /// Who was asked about, and when.
    probes: RefCell<Vec<(usize, Instant)>>,
}

impl Target {
    /// On so many ports: of connections to one, only so many can be remembered in a minute.
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

    /// A check of the `n`th thing that is here.
    pub fn check(&self, n: usize, interval: &str) -> Value {
        let url = format!("http://{}/{n}", self.ports[n % self.ports.len()]);
        json!({ "HTTP": url, "Interval": interval, "Timeout": "1s" })
    }

    /// Whoever asks from now on is told that nothing works, or that all does.
    pub fn fail(&self, fails: bool) {
        self.seen.fails.set(fails);
        self.seen.failed.set(None);
    }

    /// When it was first told that nothing works.
    pub fn failed(&self) -> Result<Instant> {
        self.seen.failed.get().context("no check has seen the failure")
    }

    /// Who was asked about since the start, and when.
    pub fn probes(&self) -> Vec<(usize, Instant)> {
        self.seen.probes.borrow().clone()
    }
}

async fn serve(listener: TcpListener, seen: Rc<Seen>) {
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            // A probe that is not answered fails, and what is measured with it.
            Ok((stream, _)) = listener.accept() => { answering.spawn_local(answer(stream, Rc::clone(&seen))); }
            Some(_) = answering.join_next() => {}
        }
    }
}

async fn answer(mut stream: TcpStream, seen: Rc<Seen>) -> Result<()> {
    let mut request = Vec::with_capacity(1_024);
    let asked = loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        if let Some((_, head)) = head(&request)? {
            let path = head.split(' ').nth(1).and_then(|path| path.strip_prefix('/'));
            break path.context("a request without a path")?.parse()?;
        }
    };
    let at = now();
    seen.probes.borrow_mut().push((asked, at));
    let fails = seen.fails.get();
    if fails && seen.failed.get().is_none() {
        seen.failed.set(Some(at));
    }
    Ok(stream.write_all(if fails { BAD } else { GOOD }).await?)
}
