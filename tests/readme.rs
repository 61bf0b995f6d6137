//! The tour of the README, played: what it says to type is run, and what it shows is what comes.

use std::{collections::HashMap, fs, net::TcpListener, path::Path, process::Stdio};

use callboard::pb::callboard::v1::{InstanceStatus, WatchRequest, change::Change, watch_response::Message};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::harness::{TestClient, TestServer, within};

/// The README's commands that stay in the foreground: the lines of its blocks of shell that sign an instance in.
fn foreground(readme: &str) -> Vec<Vec<String>> {
    let lines =
        readme.lines().filter(|line| line.starts_with("callboard register") || line.starts_with("callboard run"));
    lines.map(|line| ours(line.split(' ').skip(1).map(str::to_owned).collect())).collect()
}

/// The program that the README's `run` starts may not be on this machine. Ours is: any that stays will do, for the test
/// itself listens on the port.
fn ours(mut words: Vec<String>) -> Vec<String> {
    if let Some(end) = words.iter().position(|word| word == "--") {
        words.truncate(end + 1);
        words.extend([env!("CARGO_BIN_EXE_callboard"), "watch", "web"].map(str::to_owned));
    }
    words
}

/// The port of the program that the README runs.
const PROGRAM: &str = "127.0.0.1:9002";

fn start(words: &[String], server: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_callboard"))
        .args(words)
        .env("CALLBOARD_SERVER", server)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Ends it as Ctrl-C does: `run` takes its program with it.
async fn sign_out(mut child: Child) {
    let id = child.id().and_then(|id| Pid::from_raw(id.try_into().unwrap())).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    child.wait().await.unwrap();
}

/// Returns once so many instances of `web` serve.
async fn serving(peer: &TestClient, many: usize) {
    let request = WatchRequest { services: vec!["web".into()], ..WatchRequest::default() };
    let mut watch = peer.discovery.clone().watch(request).await.unwrap().into_inner();
    let mut seen = HashMap::new();
    while seen.values().filter(|status| **status == InstanceStatus::Serving).count() < many {
        match watch.message().await.unwrap().unwrap().message {
            Some(Message::Snapshot(part)) => {
                seen.extend(part.instances.iter().map(|one| (one.id.clone(), one.status())));
            }
            Some(Message::Changes(step)) => {
                for change in step.changes {
                    if let Some(Change::Updated(one)) = change.change {
                        seen.insert(one.id.clone(), one.status());
                    }
                }
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_tour_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    // Where it is taken, somebody listens, which is all that `run` looks for.
    let _program = TcpListener::bind(PROGRAM);
    let house = TestServer::open();
    let server = house.grpc().to_string();
    let signed_in: Vec<Child> =
        foreground(&fs::read_to_string(&path).unwrap()).iter().map(|words| start(words, &server)).collect();
    assert_eq!(signed_in.len(), 2, "the tour signs two instances in");

    within("both instances of the tour to serve", serving(&house.peer().await, 2)).await;

    let played = tokio::task::spawn_blocking(move || {
        trycmd::TestCases::new().env("CALLBOARD_SERVER", server).env("NO_COLOR", "1").case(path).run();
    });
    played.await.unwrap();
    for child in signed_in {
        within("an instance of the tour to sign out", sign_out(child)).await;
    }
    house.leave().await;
}
