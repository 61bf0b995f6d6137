//! Health checks over gRPC: changes that watchers receive, results, restarts, and the `checks` command.

use callboard::pb::callboard::v1::{
    Check, CheckState, CheckStatus, HttpProbe, Instance, InstanceStatus, RegisterRequest, ReportCheckRequest, TtlProbe,
    change::Change, check::Probe, watch_response::Message,
};
use serde_json::Value;
use tempfile::TempDir;
use tonic::Code;

use crate::harness::{Child, Ended, Page, Reader, ServerProcess, TestClient, View, What, instance, seconds};

use CheckStatus::{Critical, Passing, Warning};
use InstanceStatus::{Serving, Starting, Unhealthy};

/// Returns a check with this interval in seconds, which is the TTL of a TTL check, and a timeout of 1 s.
fn check(probe: Probe, interval: f64) -> Check {
    Check { probe: Some(probe), interval: seconds(interval), timeout: seconds(1.0), ..Check::default() }
}

fn http(page: &Page) -> Check {
    check(Probe::Http(HttpProbe { url: page.url(), ..HttpProbe::default() }), 1.0)
}

fn ttl(seconds: f64) -> Check {
    check(Probe::Ttl(TtlProbe {}), seconds)
}

/// Returns a registration of `web/a` with a lease that outlasts the test.
fn request(checks: Vec<Check>) -> RegisterRequest {
    RegisterRequest { ttl: seconds(600.0), checks, ..instance("web", "a") }
}

fn report(check: &str, status: CheckStatus, output: &str) -> ReportCheckRequest {
    ReportCheckRequest {
        service: "web".to_owned(),
        id: "a".to_owned(),
        check_id: check.to_owned(),
        status: status.into(),
        output: output.to_owned(),
    }
}

/// Starts a server, watches `web`, and registers `web/a` with these checks.
async fn start_with_checks(checks: Vec<Check>) -> (ServerProcess, TestClient, Reader) {
    let server = ServerProcess::start(&["--settle", "0"]).await;
    let client = server.client().await;
    let reader = Reader::synced(&client, &["web"]).await;
    client.register(request(checks)).await.unwrap();
    (server, client, reader)
}

async fn wait_for_status(reader: &mut Reader, status: InstanceStatus) {
    let has_status = |view: &View| view.get("web", "a").is_some_and(|instance| instance.status() == status);
    reader.until(status.as_str_name(), has_status).await;
}

/// Returns a property of `web/a` in the order of the changes that the watch received, without repetitions.
fn received<T: PartialEq>(reader: &Reader, property: impl Fn(&Instance) -> T) -> Vec<T> {
    let mut received = Vec::new();
    for observation in &reader.record.observations {
        let What::Message(message) = &observation.what else { continue };
        let Some(Message::Changes(step)) = &message.message else { continue };
        for change in &step.changes {
            if let Some(Change::Updated(instance)) = &change.change {
                received.push(property(instance));
            }
        }
    }
    received.dedup();
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_receives_status_changes_that_result_from_checks() {
    let page = Page::open().await;
    let (_serve, client, mut reader) = start_with_checks(vec![http(&page), ttl(600.0)]).await;
    wait_for_status(&mut reader, Starting).await;
    client.report(report("ttl", Passing, "fine")).await.unwrap();
    wait_for_status(&mut reader, Serving).await;
    page.answer(500);
    wait_for_status(&mut reader, Unhealthy).await;
    page.answer(429);
    wait_for_status(&mut reader, Serving).await;
    client.report(report("ttl", Critical, "no")).await.unwrap();
    wait_for_status(&mut reader, Unhealthy).await;
    let statuses = received(&reader, Instance::status);
    assert_eq!(statuses, [Starting, Serving, Unhealthy, Serving, Unhealthy]);
    let reports = client.checks("web", "a").await;
    let statuses: Vec<_> = reports.iter().map(|report| report.state.as_ref().unwrap().status()).collect();
    assert_eq!(statuses, [Warning, Critical]);
    assert_eq!(reports[0].output, format!("HTTP GET {}: 429 Too Many Requests Output: ok", page.url()));
    assert_eq!((&*reports[1].output, reports[0].changes, reports[1].changes), ("no", 3, 2));
    assert!(reports[0].results[0].took.is_some() && reports[1].results[0].took.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn report_expires_after_its_ttl() {
    let (_serve, client, mut reader) = start_with_checks(vec![ttl(1.0)]).await;
    client.report(report("ttl", Passing, "fine")).await.unwrap();
    wait_for_status(&mut reader, Serving).await;
    wait_for_status(&mut reader, Unhealthy).await;
    let reports = client.checks("web", "a").await;
    assert_eq!(reports[0].output, "TTL expired (last output before timeout follows): fine");
    client.report(report("ttl", Warning, "slow")).await.unwrap();
    wait_for_status(&mut reader, Serving).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_changes_after_consecutive_results() {
    let page = Page::open().await;
    let check =
        Check { successes_before_passing: 2, failures_before_warning: 1, failures_before_critical: 3, ..http(&page) };
    let (_serve, client, mut reader) = start_with_checks(vec![check]).await;
    wait_for_status(&mut reader, Serving).await;
    page.answer(500);
    wait_for_status(&mut reader, Unhealthy).await;
    let statuses = received(&reader, |instance| instance.checks.iter().map(CheckState::status).collect::<Vec<_>>());
    assert_eq!(statuses, [[Critical], [Passing], [Warning], [Critical]]);
    let results = client.checks("web", "a").await.remove(0).results;
    let count = |status| results.iter().filter(|result| result.status() == status).count();
    assert!(count(Passing) >= 2 && count(Critical) >= 3, "{results:?}");
    assert!(results.is_sorted_by_key(|result| std::cmp::Reverse(result.time.map(|at| (at.seconds, at.nanos)))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_ttl_checks_take_reports() {
    let page = Page::open().await;
    let (_serve, client, _) = start_with_checks(vec![http(&page), ttl(600.0)]).await;
    let no_instance = ReportCheckRequest { id: "missing".to_owned(), ..report("ttl", Passing, "") };
    for (request, code, text) in [
        (report("http", Passing, ""), Code::InvalidArgument, "http"),
        (report("disk", Passing, ""), Code::NotFound, "disk"),
        (no_instance, Code::NotFound, "missing"),
        (report("ttl", CheckStatus::Unspecified, ""), Code::InvalidArgument, "CHECK_STATUS_PASSING"),
    ] {
        let error = client.report(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(text), "{error}");
    }
    assert!(client.checks("web", "a").await[1].results.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_output_survive_a_restart() {
    let data = TempDir::new().unwrap();
    let arguments = ["--settle", "0", "--data-dir", data.path().to_str().unwrap()];
    let server = ServerProcess::start(&arguments).await;
    let client = server.client().await;
    client.register(request(vec![ttl(600.0)])).await.unwrap();
    client.report(report("ttl", Warning, "slow")).await.unwrap();
    let before = client.get("web", "a").await.unwrap();
    let server = server.restart(&arguments).await;
    let client = server.client().await;
    assert_eq!(client.get("web", "a").await.unwrap(), before);
    assert_eq!((before.status(), before.checks[0].status()), (Serving, Warning));
    let reports = client.checks("web", "a").await;
    let last: Vec<_> = reports[0].results.iter().map(|result| (&*result.output, result.status())).collect();
    assert_eq!((last, &*reports[0].output, reports[0].changes), (vec![("slow", Warning)], "slow", 1));
    // A report of the same status is no change, although this process did not get the first report.
    client.report(report("ttl", Warning, "slow")).await.unwrap();
    assert_eq!(client.get("web", "a").await.unwrap().revision, before.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_below_one_second_is_rejected() {
    let server = ServerProcess::start(&["--settle", "0"]).await;
    let error = server.client().await.register(request(vec![ttl(0.0005)])).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("checks[0].check.ttl \"500us\" is shorter than 1s"), "{error}");
}

/// Runs the `checks` command.
async fn checks(server: &ServerProcess, arguments: &[&str]) -> Ended {
    Child::run(&[&["checks"], arguments, &["--server", &server.address()]].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_command_shows_statuses_and_results() {
    let page = Page::open().await;
    let (server, client, mut reader) = start_with_checks(vec![http(&page), ttl(600.0)]).await;
    client.report(report("ttl", Passing, "fine")).await.unwrap();
    wait_for_status(&mut reader, Serving).await;
    let ended = checks(&server, &["web/a"]).await;
    let lines: Vec<Vec<&str>> = ended.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["CHECK", "KIND", "STATUS", "CHANGES", "OUTPUT"]);
    assert_eq!(lines[2], ["ttl", "ttl", "PASSING", "1", "fine"]);
    assert_eq!((ended.code(), lines.len()), (Some(0), 3), "{}", ended.stderr);
    assert_eq!(checks(&server, &["web/a", "-o", "name"]).await.stdout, "http\nttl\n");

    client.report(report("ttl", Critical, "no")).await.unwrap();
    let ended = checks(&server, &["web/a", "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&shown[1]["status"], &shown[1]["output"]), (&"CRITICAL".into(), &"no".into()), "{shown}");
    assert_eq!(ended.code(), Some(6), "{}", ended.stderr);

    let ended = checks(&server, &["web/a", "--results", "-o", "json"]).await;
    let results: Value = serde_json::from_str(&ended.stdout).unwrap();
    let ttl_results = results.as_array().unwrap().iter().filter(|result| result["check"] == "ttl");
    assert_eq!(ttl_results.map(|result| &result["output"]).collect::<Vec<_>>(), ["no", "fine"], "the newest first");
    assert!(results[0]["took_seconds"].is_number() && results[0]["time"].is_string(), "{results}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_command_distinguishes_missing_instance_from_one_without_checks() {
    let (server, ..) = start_with_checks(Vec::new()).await;
    let ended = checks(&server, &["web/a"]).await;
    assert_eq!((ended.code(), &*ended.stdout, &*ended.stderr), (Some(0), "", "web/a has no checks\n"));
    assert_eq!(checks(&server, &["web/missing"]).await.code(), Some(3));
    assert_eq!(checks(&server, &["web"]).await.code(), Some(2));
}
