//! Transcripts of the documents: the commands of README.md and of the pages in `docs/src` are run against a registry, and what
//! they print is compared with what the page shows.

use std::{
    collections::HashMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
};

use callboard::pb::callboard::v1::{InstanceStatus, WatchRequest, change::Change, watch_response::Message};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::harness::{TestClient, TestServer, within};

/// Address of the program that README.md starts with `callboard run`.
const PROGRAM: &str = "127.0.0.1:9002";

/// Returns the commands of a page that stay in the foreground: the lines of its shell blocks that register an instance of `web`.
fn registrations(page: &str) -> Vec<Vec<String>> {
    let lines = page
        .lines()
        .filter(|line| line.starts_with("callboard register web ") || line.starts_with("callboard run --service web "));
    lines.map(|line| with_own_program(line.split(' ').skip(1).map(str::to_owned).collect())).collect()
}

/// Replaces the program behind `--` by one that this machine is sure to have. It need not listen, because the test listens on its
/// port.
fn with_own_program(mut words: Vec<String>) -> Vec<String> {
    if let Some(end) = words.iter().position(|word| word == "--") {
        words.truncate(end + 1);
        words.extend([env!("CARGO_BIN_EXE_callboard"), "watch", "web"].map(str::to_owned));
    }
    words
}

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

/// Ends a registration as Ctrl-C does.
async fn interrupt(mut child: Child) {
    let id = child.id().and_then(|id| Pid::from_raw(id.try_into().unwrap())).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    child.wait().await.unwrap();
}

/// Returns once this number of instances of `web` is SERVING.
async fn wait_until_serving(client: &TestClient, count: usize) {
    let request = WatchRequest { services: vec!["web".into()], ..WatchRequest::default() };
    let mut watch = client.discovery.clone().watch(request).await.unwrap().into_inner();
    let mut seen = HashMap::new();
    while seen.values().filter(|status| **status == InstanceStatus::Serving).count() < count {
        match watch.message().await.unwrap().unwrap().message {
            Some(Message::Snapshot(part)) => {
                seen.extend(part.instances.iter().map(|instance| (instance.id.clone(), instance.status())));
            }
            Some(Message::Changes(step)) => {
                for change in step.changes {
                    if let Some(Change::Updated(instance)) = change.change {
                        seen.insert(instance.id.clone(), instance.status());
                    }
                }
            }
            _ => {}
        }
    }
}

/// Runs the transcripts of a page against a registry with the instances that the page registers, and returns their number.
async fn play(page: PathBuf) -> usize {
    let server = TestServer::open();
    let address = server.grpc().to_string();
    let registrations = registrations(&fs::read_to_string(&page).unwrap());
    let children: Vec<Child> = registrations.iter().map(|words| start(words, &address)).collect();
    within("the instances of the page to serve", wait_until_serving(&server.client().await, children.len())).await;

    let played = tokio::task::spawn_blocking(move || {
        trycmd::TestCases::new().env("CALLBOARD_SERVER", address).env("NO_COLOR", "1").case(page).run();
    });
    played.await.unwrap();
    let count = children.len();
    for child in children {
        within("an instance of the page to deregister", interrupt(child)).await;
    }
    server.leave().await;
    count
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn readme_transcripts_match_output() {
    // Fails if the port is taken; then another program listens, which is all that `callboard run` waits for.
    let _program = TcpListener::bind(PROGRAM);
    assert_eq!(play(root().join("README.md")).await, 2, "README.md registers two instances");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn book_transcripts_match_output() {
    let pages = fs::read_dir(root().join("docs/src")).unwrap().map(|entry| entry.unwrap().path());
    let has_transcript =
        |page: &PathBuf| page.is_file() && fs::read_to_string(page).unwrap().lines().any(|line| line == "```console");
    let mut pages: Vec<PathBuf> = pages.filter(has_transcript).collect();
    pages.sort();
    assert!(!pages.is_empty(), "no page has a transcript");
    for page in pages {
        play(page).await;
    }
}
