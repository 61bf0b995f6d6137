//! Metrics of the server.

use std::{net::SocketAddr, time::Duration};

use super::{get, try_get, within};

/// The value of a metric, named with its labels as on the page; 0 where it is not there.
pub async fn metric(http: SocketAddr, name: &str) -> f64 {
    value(&get(http, "/metrics").await.1, name).unwrap_or(0.0)
}

fn value(page: &str, name: &str) -> Option<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// Waits until a metric is as wanted.
pub async fn metric_becomes(http: SocketAddr, name: &str, wanted: impl Fn(f64) -> bool) {
    within(name, async {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        while !wanted(metric(http, name).await) {
            pace.tick().await;
        }
    })
    .await;
}

/// Waits until no gRPC connection is left, and HTTP is below the limits again that those may have reached.
pub async fn no_connections(http: SocketAddr) {
    within("they are gone", async {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        let name = "callboard_open_connections{listener=\"grpc\"}";
        while !try_get(http, "/metrics").await.is_ok_and(|(_, page)| value(&page, name) == Some(0.0)) {
            pace.tick().await;
        }
    })
    .await;
}
