//! One registry that is asked what was recorded, and what the exchanges so far have shown.

use std::{collections::HashMap, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{
    client, compare,
    indexes::{Indexes, Seen, in_place_of},
    recording::{Answer, Exchange},
    target::Target,
};
use crate::harness::ServerProcess;

/// Interval between two looks at a check.
const LOOK: Duration = Duration::from_millis(20);
/// Longest interval of a check, with a reserve.
const PROBED: Duration = Duration::from_secs(12);
/// Stands for the current index in the second recording.
const CURRENT_INDEX: &str = "index=…";

#[derive(Debug)]
pub struct Session {
    pub serve: ServerProcess,
    pub target: Target,
    indexes: Indexes,
    /// Our content hashes by the recorded ones.
    hashes: HashMap<String, String>,
}

/// A request in our terms.
#[derive(Debug)]
pub struct Translated {
    pub path: String,
    /// The index that it asks for.
    pub index: Option<u64>,
    /// The same beside the recorded index.
    seen: Option<Seen>,
}

impl Session {
    pub fn new(serve: ServerProcess, target: Target) -> Self {
        Self { serve, target, indexes: Indexes::default(), hashes: HashMap::new() }
    }

    /// Stops the registry, and starts it with these arguments.
    pub async fn restart(self, arguments: &[&str]) -> Self {
        let Self { serve, target, indexes, hashes } = self;
        serve.child.signal(Signal::TERM);
        let ended = serve.child.ended().await;
        assert!(ended.status.success(), "{ended:?}");
        Self { serve: ServerProcess::start(arguments).await, target, indexes, hashes }
    }

    pub async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        client::ask(self.serve.http, method, path, body, |answer| self.target.there(&answer)).await
    }

    /// Makes a PUT request that has to succeed.
    pub async fn put(&self, path: &str, body: &str) {
        let answer = self.ask("PUT", path, body).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }

    /// Makes a PUT request while another waits.
    pub async fn put_later(&self, request: Option<(&str, &str)>, delay: Duration) {
        if let Some((path, body)) = request {
            sleep(delay).await;
            self.put(path, body).await;
        }
    }

    /// Waits until a check is as it has to be. Where it never is, the next answer tells.
    pub async fn check_becomes(&self, check: &str, wanted: impl Fn(&Value) -> bool) {
        let becomes = async {
            loop {
                let checks = self.ask("GET", "/v1/health/state/any", "").await.body;
                let found = checks.as_array().and_then(|all| all.iter().find(|one| one["CheckID"] == check));
                if found.is_some_and(&wanted) {
                    return;
                }
                sleep(LOOK).await;
            }
        };
        let _ = timeout(PROBED, becomes).await;
    }

    /// Returns the request with our index and our hash in place of the recorded ones.
    pub async fn translate(&self, exchange: &Exchange) -> Translated {
        let mut path = exchange.request.path.clone();
        for (recorded, ours) in &self.hashes {
            path = path.replace(recorded, ours);
        }
        let recorded = asked_index(&path);
        if recorded.is_none() && !path.contains(CURRENT_INDEX) {
            return Translated { path, index: None, seen: None };
        }
        let without = path.replace(CURRENT_INDEX, "");
        let current = match recorded {
            Some(_) => self.ask("GET", exchange.request.endpoint(), "").await,
            None => self.ask("GET", &without, "").await,
        };
        let current = current.index().unwrap_or_default();
        let Some(recorded) = recorded else {
            let path = path.replace(CURRENT_INDEX, &format!("index={current}"));
            return Translated { path, index: Some(current), seen: None };
        };
        let ours = in_place_of(recorded, current);
        Translated {
            path: path.replace(&format!("index={recorded}"), &format!("index={ours}")),
            index: Some(ours),
            seen: Some(Seen { at: "the index asked for".to_owned(), recorded, actual: ours }),
        }
    }

    pub fn compare(&mut self, exchange: &Exchange, asked: Translated, answer: &Answer) -> Vec<compare::Found> {
        const HASH: &str = "X-Consul-Contenthash";
        if let (Some(recorded), Some(ours)) = (exchange.response.header(HASH), answer.header(HASH)) {
            self.hashes.insert(recorded.to_owned(), ours.to_owned());
        }
        let endpoint = exchange.request.endpoint();
        let mut recorded = exchange.response.clone();
        if exchange.request.method == "PUT" {
            // A write waits for the disk, which tells nothing of what it is to do.
            recorded.seconds = None;
        }
        let findings = compare::answers(endpoint, &recorded, answer);
        let shown = asked.seen.into_iter().chain(findings.indexes).collect();
        let mut found = findings.differ;
        found.extend(self.indexes.take(endpoint, shown));
        found
    }
}

/// `index=` in a path, where it is a number.
fn asked_index(path: &str) -> Option<u64> {
    let query = path.split_once('?')?.1;
    query.split('&').find_map(|pair| pair.strip_prefix("index="))?.parse().ok()
}
