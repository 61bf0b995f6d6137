//! Two recordings of requests to Consul 1.21.4 and its answers, replayed in order against Callboard.
//!
//! Statuses, the spelling of headers, bodies and waiting times must be equal. Indexes must be in the same order.

pub mod client;
mod compare;
mod cues;
mod differences;
mod indexes;
pub mod recording;
mod report;
mod second;
mod session;
mod target;

use std::time::Duration;

use crate::harness::{Page, ServerProcess};
use cues::Cue;
use differences::DIFFERENCES;
use recording::Exchange;
use report::Report;
use session::Session;
use target::Target;

/// Flags for the node of the recording.
const NODE: [&str; 4] = ["--node-name", "n1", "--node-id", "a51aee3d-7c72-ddf7-58b1-6d63d89505d0"];
/// Time after which another client changes something while a request waits.
const LATER: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_recording_is_answered_as_by_consul() {
    let recording = recording::read();
    let report = loop {
        if let Some(report) = play(&recording).await {
            break report;
        }
    };
    assert!(report.is_good(), "\n{report}");
    println!("{report}");
}

/// Replays the recording. `None`: a check ran earlier than in the recording.
async fn play(recording: &[Exchange]) -> Option<Report> {
    let serve = ServerProcess::start(&[&NODE[..], &["--settle", "0"]].concat()).await;
    let mut session = Session::new(serve, Target::new(Page::open().await));
    let mut report = Report::new(DIFFERENCES);
    for (number, exchange) in recording.iter().enumerate() {
        let mut later = None;
        for cue in cues::of(number) {
            match *cue {
                Cue::NotYet(path) if session.target.page.was_asked(path) => return None,
                Cue::NotYet(_) => {}
                Cue::Await { check, status } => session.check_becomes(check, |found| found["Status"] == status).await,
                Cue::Answer(status) => session.target.page.answer(status),
                Cue::OpenPort => session.target.open_port(),
                Cue::Later { path, body } => later = Some((path, body)),
            }
        }
        let asked = session.translate(exchange).await;
        let request = &exchange.request;
        let body = session.target.here(&request.text());
        let asking = session.ask(&request.method, &asked.path, &body);
        let (answer, ()) = tokio::join!(asking, session.put_later(later, LATER));
        report.add(number, &exchange.to_string(), &session.compare(exchange, asked, &answer));
    }
    Some(report)
}
