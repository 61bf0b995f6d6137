//! Configuration files.

use std::{path::Path, time::Duration};

use crate::config::{Config, ConfigError, from_text};

/// Whatever it is, it is answered: by a configuration that can be used, or by an error that says where and what.
pub(super) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match from_text(Path::new("callboard.toml"), text) {
        Ok(config) => check(&config, text),
        Err(error) => {
            let told = error.to_string();
            let of_two = matches!(error, ConfigError::SameAddress { .. } | ConfigError::NoGrpc);
            assert!(told.starts_with("callboard.toml:") || of_two, "{told}");
            assert!(told.contains("; "), "it has no remedy: {told}");
            if let Some(line) = told.split(':').nth(1).and_then(|line| line.parse::<usize>().ok()) {
                assert!((1..=text.lines().count().max(1) + 1).contains(&line), "{told}");
            }
        }
    }
}

fn check(config: &Config, text: &str) {
    let speak_no_tls = [config.grpc, config.http].into_iter().flatten();
    let proven = config.tls.as_ref().is_some_and(|files| files.client_ca.is_some());
    let speak_tls = [config.grpc_tls, config.http_tls].into_iter().flatten().filter(|_| !proven);
    let open = speak_no_tls.chain(speak_tls).find(|address| !address.ip().to_canonical().is_loopback());
    assert!(open.is_none() || text.contains("insecure"), "{open:?} is open to others");
    assert!((1..=64).contains(&config.workers.get()));
    assert!((64 * 1024..=64 * 1024 * 1024).contains(&config.max_message_size));
    assert!((1..=1_000_000).contains(&config.max_streams_per_connection.get()));
    assert!((Duration::from_millis(10)..=Duration::from_hours(1)).contains(&config.bookmark_interval));
}
