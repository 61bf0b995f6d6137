//! Target of the recording's health checks.

use std::net::SocketAddr;

use tokio::{net::TcpSocket, task::JoinSet};

use crate::harness::Page;

/// Ports of the recording's target, for HTTP and for TCP checks.
const RECORDED: &str = "48901";

/// An HTTP server, and a port that opens when it is told to.
#[derive(Debug)]
pub struct Target {
    pub page: Page,
    port: SocketAddr,
    closed: Option<TcpSocket>,
    open: JoinSet<()>,
}

impl Target {
    pub fn new(page: Page) -> Self {
        // Bound, so that no other program takes it, but not listening yet: connections are refused.
        let closed = TcpSocket::new_v4().unwrap();
        closed.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let port = closed.local_addr().unwrap();
        Self { page, port, closed: Some(closed), open: JoinSet::new() }
    }

    /// Accepts connections of TCP checks. The recording has the order in which two checks first passed, which is chance unless one
    /// of them is held back.
    pub fn open_port(&mut self) {
        let listener = self.closed.take().unwrap().listen(64).unwrap();
        self.open.spawn(async move { while listener.accept().await.is_ok() {} });
    }

    /// A recorded request, of this target.
    pub fn here(&self, recorded: &str) -> String {
        let connects = format!("\"TCP\":\"127.0.0.1:{RECORDED}\"");
        let recorded = recorded.replace(&connects, &format!("\"TCP\":\"{}\"", self.port));
        recorded.replace(RECORDED, &self.page.address.port().to_string())
    }

    /// An answer, as if it were of the recorded target. A port comes after a colon; anywhere else, its digits are of something else.
    pub fn there(&self, answer: &str) -> String {
        let ports = [self.page.address, self.port].map(|address| address.port());
        ports.iter().fold(answer.to_owned(), |answer, port| {
            let tight = answer.replace(&format!(":{port}"), &format!(":{RECORDED}"));
            tight.replace(&format!(": {port}"), &format!(": {RECORDED}"))
        })
    }
}
