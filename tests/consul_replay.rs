//! What Consul 1.21.4 was asked and answered, asked of Callboard: 164 exchanges, in order, against the program itself.
//!
//! Statuses, headers in their spelling, bodies and waiting times have to be the same. Indexes have to be in the same order.

pub mod client;
mod compare;
mod cues;
mod differences;
mod indexes;
pub mod recording;
mod report;
mod target;

use std::{collections::HashMap, time::Duration};

use tokio::time::{sleep, timeout};

use crate::harness::Serve;
use cues::Cue;
use indexes::{Indexes, Seen, in_place_of};
use recording::{Answer, Exchange};
use report::Report;
use target::Target;

/// The recorded node.
const NODE: [&str; 4] = ["--node-name", "n1", "--node-id", "a51aee3d-7c72-ddf7-58b1-6d63d89505d0"];
/// How often one looks what a check says.
const LOOK: Duration = Duration::from_millis(20);
/// The longest interval of a check, and some more.
const PROBED: Duration = Duration::from_secs(12);
/// When somebody else does something while a request waits.
const LATER: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callboard_answers_as_consul_did() {
    let recording = recording::read();
    let report = loop {
        if let Some(report) = Replay::begin().await.play(&recording).await {
            break report;
        }
    };
    assert!(report.is_good(), "\n{report}");
    println!("{report}");
}

/// One registry that is asked what was recorded.
#[derive(Debug)]
struct Replay {
    serve: Serve,
    target: Target,
    indexes: Indexes,
    /// Ours, by those that were recorded.
    hashes: HashMap<String, String>,
}

impl Replay {
    async fn begin() -> Self {
        let serve = Serve::start(&[&NODE[..], &["--settle", "0"]].concat()).await;
        Self { serve, target: Target::open().await, indexes: Indexes::default(), hashes: HashMap::new() }
    }

    /// None: a check was made sooner than when it was recorded.
    async fn play(mut self, recording: &[Exchange]) -> Option<Report> {
        let mut report = Report::default();
        for (number, exchange) in recording.iter().enumerate() {
            let mut later = None;
            for cue in cues::of(number) {
                match *cue {
                    Cue::NotYet(path) if self.target.page.was_asked(path) => return None,
                    Cue::NotYet(_) => {}
                    Cue::Await { check, status } => self.check_becomes(check, status).await,
                    Cue::Answer(status) => self.target.page.answer(status),
                    Cue::OpenPort => self.target.open_port(),
                    Cue::Later { path, body } => later = Some((path, body)),
                }
            }
            let (path, asked) = self.translate(exchange).await;
            let request = &exchange.request;
            let body = self.target.here(&request.text());
            let (answer, ()) = tokio::join!(self.ask(&request.method, &path, &body), self.do_later(later));
            report.add(number, exchange, &self.compare(exchange, asked, &answer));
        }
        Some(report)
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        client::ask(self.serve.http, method, path, body, |answer| self.target.there(&answer)).await
    }

    /// What somebody else does.
    async fn do_later(&self, what: Option<(&str, &str)>) {
        if let Some((path, body)) = what {
            sleep(LATER).await;
            let answer = self.ask("PUT", path, body).await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
    }

    async fn check_becomes(&self, check: &str, status: &str) {
        let becomes = async {
            loop {
                let checks = self.ask("GET", "/v1/health/state/any", "").await.body;
                let found = checks.as_array().and_then(|all| all.iter().find(|one| one["CheckID"] == check));
                if found.is_some_and(|found| found["Status"] == status) {
                    return;
                }
                sleep(LOOK).await;
            }
        };
        // Where it does not, the answer tells.
        let _ = timeout(PROBED, becomes).await;
    }

    /// The path with our index and our hash in place of those that were recorded, and which index was asked for.
    async fn translate(&self, exchange: &Exchange) -> (String, Option<(u64, u64)>) {
        let mut path = exchange.request.path.clone();
        for (recorded, ours) in &self.hashes {
            path = path.replace(recorded, ours);
        }
        let Some(recorded) = asked_index(&path) else { return (path, None) };
        let current = self.ask("GET", exchange.request.endpoint(), "").await.index().unwrap_or_default();
        let ours = in_place_of(recorded, current);
        (path.replace(&format!("index={recorded}"), &format!("index={ours}")), Some((recorded, ours)))
    }

    fn compare(&mut self, exchange: &Exchange, asked: Option<(u64, u64)>, answer: &Answer) -> Vec<compare::Found> {
        const HASH: &str = "X-Consul-Contenthash";
        if let (Some(recorded), Some(ours)) = (exchange.response.header(HASH), answer.header(HASH)) {
            self.hashes.insert(recorded.to_owned(), ours.to_owned());
        }
        let endpoint = exchange.request.endpoint();
        let findings = compare::answers(endpoint, &exchange.response, answer);
        let asked = asked.map(|(recorded, actual)| Seen { at: "the index asked for".to_owned(), recorded, actual });
        let shown = asked.into_iter().chain(findings.indexes).collect();
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
