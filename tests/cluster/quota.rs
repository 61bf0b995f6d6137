//! Maintenance of etcd that Callboard never does itself: defragmentation and alarms, over etcd's HTTP gateway.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::within;

/// Returns the space of deleted values to the disk.
pub async fn defragment(member: SocketAddr) {
    post(member, "/v3/maintenance/defragment", &json!({})).await;
}

/// Clears all alarms.
pub async fn disarm(member: SocketAddr) {
    let alarms = post(member, "/v3/maintenance/alarm", &json!({"action": "GET"})).await;
    let alarms = alarms["alarms"].as_array().cloned().unwrap_or_default();
    assert!(!alarms.is_empty(), "etcd has raised no alarm");
    for alarm in alarms {
        let request = json!({"action": "DEACTIVATE", "alarm": alarm["alarm"], "memberID": alarm["memberID"]});
        post(member, "/v3/maintenance/alarm", &request).await;
    }
}

async fn post(member: SocketAddr, path: &str, body: &Value) -> Value {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.0\r\nHost: {member}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = String::new();
    within(path, async {
        let mut stream = TcpStream::connect(member).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
    })
    .await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP response");
    assert!(head.contains(" 200 "), "{path}: {answer}");
    serde_json::from_str(body).unwrap()
}
