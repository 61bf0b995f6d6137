//! What the server counts.

use std::{net::SocketAddr, time::Duration};

use super::{get, within};

/// The value of a metric, named with its labels as on the page; 0 where it is not there.
pub async fn metric(http: SocketAddr, name: &str) -> f64 {
    let (_, page) = get(http, "/metrics").await;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
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
