//! HTTP/1.1 by hand, for libraries do not keep the spelling of headers.

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::recording::Answer;
use crate::harness::{wall, within};

/// `User-Agent` of the requests.
pub const USER_AGENT: &str = "callboard-tests";

/// Asks on a connection of its own. `rewrite` changes what came before it is read as JSON.
pub async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
    rewrite: impl Fn(String) -> String,
) -> Answer {
    let from = wall();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: {USER_AGENT}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut stream = within("a connection", TcpStream::connect(address)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(path, stream.read_to_string(&mut answer)).await.unwrap();
    let milliseconds = u32::try_from(wall() - from).unwrap();
    let mut answer = read(&answer, rewrite);
    answer.seconds = Some(f64::from(milliseconds) / 1_000.0);
    answer
}

fn read(answer: &str, rewrite: impl Fn(String) -> String) -> Answer {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: BTreeMap<String, String> =
        lines.map(|line| line.split_once(": ").unwrap()).map(|(name, value)| (name.into(), value.into())).collect();
    let chunked = headers.get("Transfer-Encoding").is_some_and(|coding| coding == "chunked");
    let text = rewrite(if chunked { unchunked(body) } else { body.to_owned() });
    let json = headers.get("Content-Type").is_some_and(|kind| kind == "application/json") && !text.is_empty();
    let body = if json { serde_json::from_str(&text).unwrap_or(Value::String(text)) } else { Value::String(text) };
    Answer { status, headers, body, seconds: None, index_rose: None }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}
