//! Configuration files.

use std::{path::Path, time::Duration};

use crate::config::{Config, ConfigError, from_text};

/// Parses any text. The result must be a usable configuration, or an error that names the place and the remedy.
pub(super) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match from_text(Path::new("callboard.toml"), text) {
        Ok(config) => check(&config, text),
        Err(error) => {
            let message = error.to_string();
            let of_two_settings = matches!(error, ConfigError::SameAddress { .. } | ConfigError::NoGrpc);
            assert!(message.starts_with("callboard.toml:") || of_two_settings, "{message}");
            assert!(message.contains("; "), "no remedy: {message}");
            if let Some(line) = message.split(':').nth(1).and_then(|line| line.parse::<usize>().ok()) {
                assert!((1..=text.lines().count().max(1) + 1).contains(&line), "{message}");
            }
        }
    }
}

fn check(config: &Config, text: &str) {
    let without_tls = [config.grpc, config.http].into_iter().flatten();
    let verifies_clients = config.tls.as_ref().is_some_and(|files| files.client_ca.is_some());
    let with_tls = [config.grpc_tls, config.http_tls].into_iter().flatten().filter(|_| !verifies_clients);
    let open = without_tls.chain(with_tls).find(|address| !address.ip().to_canonical().is_loopback());
    assert!(open.is_none() || text.contains("insecure"), "{open:?} is reachable from other hosts");
    assert!((1..=64).contains(&config.workers.get()));
    assert!((64 * 1024..=64 * 1024 * 1024).contains(&config.max_message_size));
    assert!((1..=1_000_000).contains(&config.max_streams_per_connection.get()));
    assert!((Duration::from_millis(10)..=Duration::from_hours(1)).contains(&config.bookmark_interval));
}
