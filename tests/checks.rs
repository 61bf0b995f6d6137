//! Health checks as programs ask for them: what readers hear, what is kept, and the verb.

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

/// Made once a second, or fed for this long.
fn check(probe: Probe, interval: f64) -> Check {
    Check { probe: Some(probe), interval: seconds(interval), timeout: seconds(1.0), ..Check::default() }
}

fn http(page: &Page) -> Check {
    check(Probe::Http(HttpProbe { url: page.url(), ..HttpProbe::default() }), 1.0)
}

fn ttl(holds: f64) -> Check {
    check(Probe::Ttl(TtlProbe {}), holds)
}

/// `web/a`, which outlives the test.
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

/// A registry, a reader of `web`, and `web/a` with these checks.
async fn registered(checks: Vec<Check>) -> (ServerProcess, TestClient, Reader) {
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    let peer = serve.peer().await;
    let reader = Reader::synced(&peer, &["web"]).await;
    peer.register(request(checks)).await.unwrap();
    (serve, peer, reader)
}

async fn becomes(reader: &mut Reader, status: InstanceStatus) {
    let is = |view: &View| view.get("web", "a").is_some_and(|instance| instance.status() == status);
    reader.until(status.as_str_name(), is).await;
}

/// What a reader was told of `web/a`, one after the other.
fn told<T: PartialEq>(reader: &Reader, of: impl Fn(&Instance) -> T) -> Vec<T> {
    let mut told = Vec::new();
    for heard in &reader.record.heard {
        let What::Message(message) = &heard.what else { continue };
        let Some(Message::Changes(step)) = &message.message else { continue };
        for change in &step.changes {
            if let Some(Change::Updated(instance)) = &change.change {
                told.push(of(instance));
            }
        }
    }
    told.dedup();
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_hear_what_checks_make_of_an_instance() {
    let page = Page::open().await;
    let (_serve, peer, mut reader) = registered(vec![http(&page), ttl(600.0)]).await;
    becomes(&mut reader, Starting).await;
    peer.report(report("ttl", Passing, "fine")).await.unwrap();
    becomes(&mut reader, Serving).await;
    page.answer(500);
    becomes(&mut reader, Unhealthy).await;
    page.answer(429);
    becomes(&mut reader, Serving).await;
    peer.report(report("ttl", Critical, "no")).await.unwrap();
    becomes(&mut reader, Unhealthy).await;
    let statuses = told(&reader, Instance::status);
    assert_eq!(statuses, [Starting, Serving, Unhealthy, Serving, Unhealthy]);
    let reports = peer.checks("web", "a").await;
    let says: Vec<_> = reports.iter().map(|report| report.state.as_ref().unwrap().status()).collect();
    assert_eq!(says, [Warning, Critical]);
    assert_eq!(reports[0].output, format!("HTTP GET {}: 429 Too Many Requests Output: ok", page.url()));
    assert_eq!((&*reports[1].output, reports[0].changes, reports[1].changes), ("no", 3, 2));
    assert!(reports[0].results[0].took.is_some() && reports[1].results[0].took.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_holds_for_its_interval() {
    let (_serve, peer, mut reader) = registered(vec![ttl(1.0)]).await;
    peer.report(report("ttl", Passing, "fine")).await.unwrap();
    becomes(&mut reader, Serving).await;
    becomes(&mut reader, Unhealthy).await;
    let reports = peer.checks("web", "a").await;
    assert_eq!(reports[0].output, "TTL expired (last output before timeout follows): fine");
    peer.report(report("ttl", Warning, "tired")).await.unwrap();
    becomes(&mut reader, Serving).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thresholds_want_several_in_a_row() {
    let page = Page::open().await;
    let patient =
        Check { successes_before_passing: 2, failures_before_warning: 1, failures_before_critical: 3, ..http(&page) };
    let (_serve, peer, mut reader) = registered(vec![patient]).await;
    becomes(&mut reader, Serving).await;
    page.answer(500);
    becomes(&mut reader, Unhealthy).await;
    let says = told(&reader, |instance| instance.checks.iter().map(CheckState::status).collect::<Vec<_>>());
    assert_eq!(says, [[Critical], [Passing], [Warning], [Critical]]);
    let results = peer.checks("web", "a").await.remove(0).results;
    let of = |status| results.iter().filter(|result| result.status() == status).count();
    assert!(of(Passing) >= 2 && of(Critical) >= 3, "{results:?}");
    assert!(results.is_sorted_by_key(|result| std::cmp::Reverse(result.time.map(|at| (at.seconds, at.nanos)))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_fed_can_be_reported() {
    let page = Page::open().await;
    let (_serve, peer, _) = registered(vec![http(&page), ttl(600.0)]).await;
    let elsewhere = ReportCheckRequest { id: "nobody".to_owned(), ..report("ttl", Passing, "") };
    for (request, code, named) in [
        (report("http", Passing, ""), Code::InvalidArgument, "http"),
        (report("disk", Passing, ""), Code::NotFound, "disk"),
        (elsewhere, Code::NotFound, "nobody"),
        (report("ttl", CheckStatus::Unspecified, ""), Code::InvalidArgument, "CHECK_STATUS_PASSING"),
    ] {
        let refusal = peer.report(request).await.unwrap_err();
        assert_eq!(refusal.code(), code, "{refusal}");
        assert!(refusal.message().contains(named), "{refusal}");
    }
    assert!(peer.checks("web", "a").await[1].results.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_check_says_outlives_the_process() {
    let data = TempDir::new().unwrap();
    let usual = ["--settle", "0", "--data-dir", data.path().to_str().unwrap()];
    let serve = ServerProcess::start(&usual).await;
    let peer = serve.peer().await;
    peer.register(request(vec![ttl(600.0)])).await.unwrap();
    peer.report(report("ttl", Warning, "tired")).await.unwrap();
    let before = peer.get("web", "a").await.unwrap();
    let serve = serve.restart(&usual).await;
    let peer = serve.peer().await;
    assert_eq!(peer.get("web", "a").await.unwrap(), before);
    assert_eq!((before.status(), before.checks[0].status()), (Serving, Warning));
    let reports = peer.checks("web", "a").await;
    let last: Vec<_> = reports[0].results.iter().map(|result| (&*result.output, result.status())).collect();
    assert_eq!((last, &*reports[0].output, reports[0].changes), (vec![("tired", Warning)], "tired", 1));
    // A report that says the same again is not a change, also of a process that has not heard the first.
    peer.report(report("ttl", Warning, "tired")).await.unwrap();
    assert_eq!(peer.get("web", "a").await.unwrap().revision, before.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_below_a_second_is_refused() {
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    let refusal = serve.peer().await.register(request(vec![ttl(0.0005)])).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    assert!(refusal.message().contains("checks[0].check.ttl \"500us\" is shorter than 1s"), "{refusal}");
}

async fn verb(serve: &ServerProcess, more: &[&str]) -> Ended {
    Child::run(&[&["checks"], more, &["--server", &serve.address()]].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verb_tells_what_checks_say_and_found() {
    let page = Page::open().await;
    let (serve, peer, mut reader) = registered(vec![http(&page), ttl(600.0)]).await;
    peer.report(report("ttl", Passing, "fine")).await.unwrap();
    becomes(&mut reader, Serving).await;
    let ended = verb(&serve, &["web/a"]).await;
    let lines: Vec<Vec<&str>> = ended.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["CHECK", "KIND", "STATUS", "CHANGES", "OUTPUT"]);
    assert_eq!(lines[2], ["ttl", "ttl", "PASSING", "1", "fine"]);
    assert_eq!((ended.code(), lines.len()), (Some(0), 3), "{}", ended.stderr);
    assert_eq!(verb(&serve, &["web/a", "-o", "name"]).await.stdout, "http\nttl\n");

    peer.report(report("ttl", Critical, "no")).await.unwrap();
    let ended = verb(&serve, &["web/a", "-o", "json"]).await;
    let checks: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&checks[1]["status"], &checks[1]["output"]), (&"CRITICAL".into(), &"no".into()), "{checks}");
    assert_eq!(ended.code(), Some(6), "{}", ended.stderr);

    let ended = verb(&serve, &["web/a", "--results", "-o", "json"]).await;
    let results: Value = serde_json::from_str(&ended.stdout).unwrap();
    let of_ttl = results.as_array().unwrap().iter().filter(|result| result["check"] == "ttl");
    assert_eq!(of_ttl.map(|result| &result["output"]).collect::<Vec<_>>(), ["no", "fine"], "the newest first");
    assert!(results[0]["took_seconds"].is_number() && results[0]["time"].is_string(), "{results}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verb_tells_who_has_no_checks_from_who_is_not_there() {
    let (serve, ..) = registered(Vec::new()).await;
    let ended = verb(&serve, &["web/a"]).await;
    assert_eq!((ended.code(), &*ended.stdout, &*ended.stderr), (Some(0), "", "web/a has no checks\n"));
    assert_eq!(verb(&serve, &["web/nobody"]).await.code(), Some(3));
    assert_eq!(verb(&serve, &["web"]).await.code(), Some(2));
}
