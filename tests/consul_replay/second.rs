//! The second recording: 186 entries in 14 sections, DNS, the checks' target and a restart included.

mod cues;
mod differences;
mod dns;
mod pages;

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::{
    compare::Found,
    recording::{self, Answer, DnsAnswer, Entry, Exchange, Question},
    report::Report,
    session::Session,
    target::Target,
};
use crate::harness::{Page, PageRequest, ServerProcess, Wall, wall};
use cues::Cue;
use differences::DIFFERENCES;

/// The recorded node, with a DNS listener. Writes do not wait for the disk, so that wake-ups can be timed on a busy machine.
const ARGUMENTS: [&str; 8] =
    ["--node-name", "n1", "--node-id", "91f5f87a-b453-892e-5977-3e69ba302a52", "--dns", "127.0.0.1:0", "--settle", "0"];
/// Time from a blocking query to the change that it is to show.
const LATER: Duration = Duration::from_millis(700);
/// Interval between two looks at the target.
const LOOK: Duration = Duration::from_millis(20);
/// Time in which every check was made: the longest interval is 10 s.
const PROBED: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_recording_is_answered_as_by_consul() {
    let report = Replay::begin().await.play(&recording::read_second()).await;
    assert!(report.is_good(), "\n{report}");
    println!("{report}");
}

/// One registry with its data directory.
#[derive(Debug)]
struct Replay {
    session: Session,
    data: TempDir,
    /// Time of the last report of a TTL check's state.
    reported: Wall,
}

impl Replay {
    async fn begin() -> Self {
        let data = TempDir::new().unwrap();
        let serve = ServerProcess::start(&arguments(&data)).await;
        let target = Target::new(Page::open_with(pages::answer).await);
        Self { session: Session::new(serve, target), data, reported: wall() }
    }

    async fn play(mut self, recording: &[Entry]) -> Report {
        let mut report = Report::new(DIFFERENCES);
        let mut headline = "";
        for (number, entry) in recording.iter().enumerate() {
            let mut later = None;
            for cue in cues::of(number) {
                match *cue {
                    Cue::Later { path, body } => later = Some((path, body)),
                    _ => self = self.follow(cue).await,
                }
            }
            let (label, found) = match entry {
                Entry::Section { section } => {
                    headline = section;
                    (headline.to_owned(), Vec::new())
                }
                Entry::Dns { dns, answer } => (dns.to_string(), self.look_up(dns, answer).await),
                Entry::Target { target_saw } => {
                    ("requests of checks".to_owned(), self.compare_target(target_saw).await)
                }
                Entry::Exchange(exchange) => (exchange.to_string(), self.exchange(exchange, later).await),
            };
            report.add(number, &format!("[{headline}] {label}"), &found);
        }
        report
    }

    /// Does what the recorder did between two requests.
    async fn follow(mut self, cue: &Cue) -> Self {
        match *cue {
            // Belongs to the request that waits.
            Cue::Later { .. } => {}
            Cue::Probed(checks) => {
                let all = async {
                    for check in checks {
                        self.session.check_becomes(check, |found| found["Output"] != "").await;
                    }
                };
                // Of a check that was never made, the next answer tells.
                let _ = timeout(PROBED, all).await;
            }
            // A registration that is rejected says why in its own answer.
            Cue::Deregister(ids) => {
                for id in ids {
                    self.session.ask("PUT", &format!("/v1/agent/service/deregister/{id}"), "").await;
                }
            }
            Cue::RegisterMany => {
                for number in 1..=40 {
                    let body = json!({ "ID": format!("big{number}"), "Name": "big", "Address": format!("10.9.0.{number}"), "Port": number });
                    self.session.put("/v1/agent/service/register", &body.to_string()).await;
                }
            }
            Cue::Reported => self.reported = wall(),
            Cue::SinceReport(time) => {
                let passed = Duration::from_millis(wall() - self.reported);
                sleep(time.saturating_sub(passed)).await;
            }
            Cue::Restart => self = self.restart().await,
        }
        self
    }

    /// Stops the registry and starts it again on the same data.
    async fn restart(self) -> Self {
        let Self { session, data, reported } = self;
        let session = session.restart(&arguments(&data)).await;
        Self { session, data, reported }
    }

    async fn exchange(&mut self, exchange: &Exchange, later: Option<(&str, &str)>) -> Vec<Found> {
        let asked = self.session.translate(exchange).await;
        let request = &exchange.request;
        let body = self.session.target.here(&request.text());
        let asking = self.session.ask(&request.method, &asked.path, &body);
        let (answer, ()) = tokio::join!(asking, self.session.put_later(later, LATER));
        let rose = exchange.response.index_rose.and(asked.index).map(|index| answer.index() > Some(index));
        let answer = Answer { index_rose: rose, ..answer };
        self.session.compare(exchange, asked, &answer)
    }

    async fn look_up(&self, question: &Question, recorded: &DnsAnswer) -> Vec<Found> {
        let reply = dns::ask(self.session.serve.dns.unwrap(), question).await;
        dns::compare(recorded, &reply)
    }

    /// Waits until the target has received every recorded request, and compares.
    async fn compare_target(&self, recorded: &[Value]) -> Vec<Found> {
        let target = &self.session.target;
        let all = async {
            while !recorded.iter().all(|request| requests(target).contains(request)) {
                sleep(LOOK).await;
            }
        };
        let _ = timeout(PROBED, all).await;
        let received = requests(target);
        let missing = recorded.iter().filter(|request| !received.contains(request));
        let missing = missing.map(|request| found(request, Some(request.to_string()), None));
        let more = received.iter().filter(|request| !recorded.contains(request));
        missing.chain(more.map(|request| found(request, None, Some(request.to_string())))).collect()
    }
}

fn arguments(data: &TempDir) -> Vec<&str> {
    [&ARGUMENTS[..], &["--data-dir", data.path().to_str().unwrap()]].concat()
}

fn found(request: &Value, expected: Option<String>, got: Option<String>) -> Found {
    let text = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    let at = format!("request {}", request["path"].as_str().unwrap_or_default());
    Found { at, expected: text(expected), got: text(got) }
}

/// Distinct requests that the target received, in the recording's terms.
fn requests(target: &Target) -> Vec<Value> {
    let mut requests: Vec<_> = target.page.requests().iter().map(|request| recorded(target, request)).collect();
    requests.sort_by_key(Value::to_string);
    requests.dedup();
    requests
}

fn recorded(target: &Target, request: &PageRequest) -> Value {
    let first = |name| request.header(name).first().map(|value| target.there(value));
    let letters = request.header("x-a");
    json!({
        "method": request.method,
        "path": request.path,
        "host": first("host"),
        "content-type": first("content-type"),
        "x-a": if letters.is_empty() { None } else { Some(letters) },
        "body": request.body,
    })
}
