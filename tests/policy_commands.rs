//! `callboard policy`, `callboard subset` and `callboard route`, against a registry that runs.

mod dry_run;
mod mistakes;

use std::{fs, path::Path};

use callboard::pb::callboard::v1::{GetPolicyRequest, SetPolicyRequest};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    harness::{Child, Ended, ServerProcess, free_port, instance, within},
    xds::ads_client::{AdsClient, AdsType, StateOfTheWorld},
};

async fn registry() -> ServerProcess {
    ServerProcess::start(&["--settle", "0"]).await
}

async fn run(serve: &ServerProcess, arguments: &[&str]) -> Ended {
    Child::run(&[arguments, &["--server", &serve.address()]].concat()).await
}

/// Runs a command line that succeeds; returns its standard output. Arguments are separated by spaces.
async fn ok(serve: &ServerProcess, line: &str) -> String {
    ok_words(serve, &line.split(' ').collect::<Vec<_>>()).await
}

async fn ok_words(serve: &ServerProcess, arguments: &[&str]) -> String {
    let ended = run(serve, arguments).await;
    assert_eq!(ended.code(), Some(0), "{arguments:?}: {}{}", ended.stdout, ended.stderr);
    ended.stdout
}

/// Runs a command that fails with a code; returns its standard error.
async fn fails(serve: &ServerProcess, code: i32, arguments: &[&str]) -> String {
    let ended = run(serve, arguments).await;
    assert_eq!(ended.code(), Some(code), "{arguments:?}: {}{}", ended.stdout, ended.stderr);
    ended.stderr
}

async fn policy(serve: &ServerProcess, service: &str) -> Value {
    serde_json::from_str(&ok(serve, &format!("policy get {service} -o json")).await).unwrap()
}

/// Returns the revision that a command printed.
fn revision(output: &str) -> u64 {
    let (_, rest) = output.split_once("(revision ").unwrap_or_else(|| panic!("no revision: {output}"));
    rest.split(')').next().unwrap().parse().unwrap()
}

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

/// Registers an instance of `payments` for each version, and defines a subset for each.
async fn with_subsets(serve: &ServerProcess, versions: &[&str]) {
    let client = serve.client().await;
    for version in versions {
        let mut request = instance("payments", version);
        request.tags = vec![(*version).to_owned()];
        request.addresses[0].port = 50_000 + u32::try_from(version.len()).unwrap();
        client.register(request).await.unwrap();
        let filter = format!("\"{version}\" in tags");
        ok_words(serve, &["subset", "set", "payments", version, "--filter", &filter]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_lines_of_the_guide_set_the_whole_policy() {
    let serve = registry().await;
    ok(&serve, "policy set payments --lb least_request --timeout 5s --retries 2 --retry-on unavailable --zone prefer --slow-start 60s")
        .await;
    with_subsets(&serve, &["v1"]).await;
    ok_words(&serve, &["subset", "set", "payments", "v2", "--filter", "metadata[\"version\"] == \"2\""]).await;
    let set = ["route", "set", "payments", "--split", "v1=90,v2=10", "--match", "header:x-canary=true→v2"];
    ok_words(&serve, &set).await;
    ok_words(&serve, &["route", "add", "payments", "--match", "method:/pay.v1.Payments/*->v2", "--timeout", "30s"])
        .await;
    ok(&serve, "route shift payments v2=50").await;
    let expected = json!({
        "lb": "least_request", "timeout": "5s", "retry": {"attempts": 2}, "zone": "prefer", "slow_start": "1m",
        "subsets": {"v1": "\"v1\" in tags", "v2": "metadata[\"version\"] == \"2\""},
        "default": {"v1": 50, "v2": 50},
        "route": [
            {"header": {"x-canary": "true"}, "to": {"v2": 100}},
            {"method": "/pay.v1.Payments/*", "to": {"v2": 100}, "timeout": "30s"},
        ],
    });
    assert_eq!(policy(&serve, "payments").await, expected);
    let routes = ok(&serve, "route list payments").await;
    assert!(routes.contains("1         method:/pay.v1.Payments/*   v2=100"), "{routes}");
    assert!(routes.contains("default   *                           v1=50,v2=50"), "{routes}");
    ok(&serve, "route remove payments 0").await;
    assert_eq!(policy(&serve, "payments").await["route"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shift_ends_at_one_subset_and_comes_back() {
    let serve = registry().await;
    with_subsets(&serve, &["v1", "v2"]).await;
    for (shift, split) in [
        ("v2=1", json!({"v1": 99, "v2": 1})),
        ("v2=100", json!({"v2": 100})),
        ("v2=25", json!({"v1": 75, "v2": 25})),
        ("v2=0", json!({"v1": 100})),
    ] {
        ok(&serve, &format!("route shift payments {shift}")).await;
        assert_eq!(policy(&serve, "payments").await["default"], split, "{shift}");
    }
    let subsets = ok(&serve, "subset list payments").await;
    assert!(subsets.contains("v2     \"v2\" in tags   0 %"), "{subsets}");
    let error = fails(&serve, 3, &["route", "shift", "payments", "v3=10"]).await;
    assert!(error.contains("no subset `v3`; it has v1, v2"), "{error}");
    let error = fails(&serve, 2, &["subset", "unset", "payments", "v1"]).await;
    assert!(error.contains("`callboard route shift payments v1=0`"), "the split uses it: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn printed_policy_is_a_file_that_sets_the_same() {
    let serve = registry().await;
    with_subsets(&serve, &["v1", "v2"]).await;
    ok_words(&serve, &["route", "set", "payments", "--match", "header:a=~x[0-9]+,header:b=!→v1=60,v2=40"]).await;
    ok(&serve, "policy set payments --outlier default --fallback a,b --backoff 5ms --retries 1 --shed 5").await;
    let before = policy(&serve, "payments").await;
    for format in ["toml", "json"] {
        let printed = ok(&serve, &format!("policy get payments -o {format}")).await;
        let file = file(&printed);
        let unchanged = ok(&serve, &format!("policy set payments --file {}", path(&file))).await;
        assert!(unchanged.contains("no change"), "{format}: {unchanged}");
        ok(&serve, "policy unset payments").await;
        assert_eq!(policy(&serve, "payments").await, json!({}));
        ok(&serve, &format!("policy set payments --file {}", path(&file))).await;
        assert_eq!(policy(&serve, "payments").await, before, "{format}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_sets_the_example_and_nothing_the_second_time() {
    let serve = registry().await;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/policy.toml");
    let line = format!("policy apply --file {}", example.display());
    let first = ok(&serve, &line).await;
    assert_eq!(first.lines().filter(|line| line.starts_with("set the ")).count(), 3, "{first}");
    let second = ok(&serve, &line).await;
    assert_eq!(second.lines().filter(|line| line.contains("no change")).count(), 3, "{second}");
    let listed: Value = serde_json::from_str(&ok(&serve, "policy list -o json").await).unwrap();
    let services: Vec<_> = listed.as_array().unwrap().iter().map(|policy| &policy["service"]).collect();
    assert_eq!(services, [&Value::Null, &json!("payments"), &json!("search")]);
    assert_eq!(ok(&serve, "policy list -o name").await, "*\npayments\nsearch\n");
    let effective: Value = serde_json::from_str(&ok(&serve, "policy get search --effective -o json").await).unwrap();
    let values = &effective["policy"];
    assert_eq!((&values["lb"], &values["zone"]), (&json!("ring_hash"), &json!("prefer")));
    let effective = ok(&serve, "policy get search --effective").await;
    assert!(effective.contains("zone = \"prefer\"  # from the defaults of all services\n"), "{effective}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_sets_policies_in_an_order_in_which_they_are_valid() {
    let serve = registry().await;
    ok(&serve, "policy set b --fallback a").await;
    // `a` comes first, and is a cycle as long as `b` falls back to it.
    let exchanged = file("[service.a]\nfallback = [\"b\"]\n[service.b]\nlb = \"least_request\"\n");
    ok(&serve, &format!("policy apply --file {}", path(&exchanged))).await;
    assert_eq!(policy(&serve, "a").await, json!({"fallback": ["b"]}));
    let invalid = file("[service.a]\nlb = \"no such\"\n[service.b]\nshed = 5\n");
    let error = fails(&serve, 2, &["policy", "apply", "--file", path(&invalid)]).await;
    assert!(error.contains("the policy of a: ") && error.contains("no such"), "{error}");
    assert_eq!(policy(&serve, "b").await, json!({"shed": 5}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_run_shows_the_differences_and_changes_nothing() {
    let serve = registry().await;
    with_subsets(&serve, &["v1"]).await;
    ok(&serve, "policy set payments --timeout 5s").await;
    let before = policy(&serve, "payments").await;
    let ended = run(&serve, &["policy", "set", "payments", "--timeout", "9s", "--shed", "1", "--dry-run"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let diff: Vec<_> = ended.stdout.lines().skip(1).collect();
    assert_eq!(diff, ["+++ payments (dry run)", "-timeout = \"5s\"", "+timeout = \"9s\"", "+shed = 1"]);
    let dry_run = ["subset", "set", "payments", "v9", "--filter", "\"v9\" in tags", "--dry-run", "-o", "json"];
    let view: Value = serde_json::from_str(&ok_words(&serve, &dry_run).await).unwrap();
    assert_eq!((&view["changed"], &view["dry_run"], &view["limitations"]), (&json!(true), &json!(true), &json!([])));
    assert_eq!(policy(&serve, "payments").await, before);
    let error = fails(&serve, 2, &["policy", "set", "payments", "--timeout", "1ms", "--dry-run"]).await;
    assert!(error.contains("timeout") && error.contains("1ms"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revisions_are_listed_compared_and_set_again() {
    let serve = registry().await;
    let first = revision(&ok(&serve, "policy set web --timeout 5s").await).to_string();
    let second = revision(&ok(&serve, "policy set web --timeout 9s --shed 1").await).to_string();
    let history: Value = serde_json::from_str(&ok(&serve, "policy history web -o json").await).unwrap();
    assert_eq!((&history[0]["revision"].to_string(), &history[1]["revision"].to_string()), (&first, &second));
    assert_eq!(history[1]["changed"], json!(["timeout", "shed"]));
    let ended = run(&serve, &["policy", "diff", "web"]).await;
    let lines: Vec<_> = ended.stdout.lines().collect();
    let names = [format!("--- web (revision {first})"), format!("+++ web (revision {second})")];
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    assert_eq!(lines, [&*names[0], &*names[1], "-timeout = \"5s\"", "+timeout = \"9s\"", "+shed = 1"]);
    let error = fails(&serve, 8, &["policy", "set", "web", "--shed", "2", "--if-revision", &first]).await;
    assert!(error.contains(&second) && error.contains(&first), "{error}");
    ok(&serve, "policy rollback web").await;
    assert_eq!(policy(&serve, "web").await, json!({"timeout": "5s"}));
    ok(&serve, &format!("policy rollback web --revision {second}")).await;
    assert_eq!(policy(&serve, "web").await, json!({"timeout": "9s", "shed": 1}));
    assert_eq!(ok(&serve, &format!("policy diff web --revision {second}")).await, "");
    let same = file("shed = 1\ntimeout = \"9000ms\"\n");
    assert_eq!(ok(&serve, &format!("policy diff web --file {}", path(&same))).await, "");
    for (arguments, code) in [
        (&["policy", "rollback", "web", "--revision", "1"][..], 3),
        (&["policy", "rollback", "other"], 3),
        (&["policy", "diff", "web", "--revision", "1"], 3),
        (&["policy", "diff", "web", "--file", "/no/such/file"], 2),
    ] {
        fails(&serve, code, arguments).await;
    }
    let nowhere = format!("127.0.0.1:{}", free_port());
    let ended = Child::run(&["policy", "diff", "web", "--server", &nowhere]).await;
    assert_eq!(ended.code(), Some(4), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_of_fields_are_all_kept() {
    let serve = registry().await;
    let address = serve.address();
    let mut running = JoinSet::new();
    for number in 0..16 {
        let address = address.clone();
        running.spawn(async move {
            let (name, filter) = (format!("v{number}"), format!("weight == {}", number + 1));
            Child::run(&["subset", "set", "web", &name, "--filter", &filter, "--server", &address]).await
        });
    }
    for ended in running.join_all().await {
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    }
    let expected: Value =
        (0..16).map(|number| (format!("v{number}"), json!(format!("weight == {}", number + 1)))).collect();
    assert_eq!(policy(&serve, "web").await["subsets"], expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_send_what_the_contract_says() {
    let serve = registry().await;
    let mut admin = serve.client().await.admin;
    ok(&serve, "policy set --defaults --shed 5").await;
    let defaults = admin.get_policy(GetPolicyRequest::default()).await.unwrap().into_inner().policy.unwrap();
    assert_eq!((&*defaults.service, defaults.policy.unwrap().fields.len()), ("", 1));
    admin.set_policy(SetPolicyRequest::default()).await.unwrap();
    let ended = run(&serve, &["policy", "get", "--defaults"]).await;
    assert_eq!((ended.code(), &*ended.stdout), (Some(0), ""));
    assert_eq!(ended.stderr, "the defaults of all services are empty\n");
    ok(&serve, "policy set --defaults --shed 5 --timeout 5s").await;
    ok(&serve, "policy unset --defaults shed").await;
    assert_eq!(policy(&serve, "--defaults").await, json!({"timeout": "5s"}));
}

/// Accepts two connections. Passes on what the first sends at once, and what the second sends once `change` has ended.
async fn delay_second_connection(listener: TcpListener, to: String, change: impl Future<Output = ()>) {
    let pass_on = async |mut near: TcpStream| {
        let mut far = TcpStream::connect(&to).await.unwrap();
        // The command closes its connections when it ends.
        let _ = copy_bidirectional(&mut near, &mut far).await;
    };
    let first = listener.accept().await.unwrap().0;
    let second = async {
        let second = listener.accept().await.unwrap().0;
        change.await;
        pass_on(second).await;
    };
    tokio::join!(pass_on(first), second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollback_does_not_undo_a_change_that_is_made_meanwhile() {
    let serve = registry().await;
    ok(&serve, "policy set web --shed 1").await;
    ok(&serve, "policy set web --shed 2").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap().to_string();
    let rollback = Child::start(&["policy", "rollback", "web", "--server", &proxy]);
    // The command reads the history on its first connection, and sets the policy on its second.
    let change = async { drop(ok(&serve, "policy set web --timeout 5s").await) };
    let delayed = Box::pin(delay_second_connection(listener, serve.address(), change));
    let (ended, ()) = within("the command", async { tokio::join!(rollback.ended(), delayed) }).await;
    assert!(ended.code() != Some(0) && ended.stderr.contains("has revision"), "{}{}", ended.stdout, ended.stderr);
    assert_eq!(policy(&serve, "web").await, json!({"shed": 2, "timeout": "5s"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unset_entry_of_outlier_detection_leaves_it_on_with_the_default() {
    let serve = registry().await;
    let custom = file("[outlier]\nhosts = 3\n");
    ok(&serve, &format!("policy set web --file {}", path(&custom))).await;
    ok(&serve, "policy unset web outlier.hosts").await;
    let default = file("outlier = {}\n");
    let same = ok(&serve, &format!("policy set web --file {}", path(&default))).await;
    assert!(same.contains("no change"), "{same}: {}", policy(&serve, "web").await);
    ok(&serve, "policy unset web outlier").await;
    assert_eq!(policy(&serve, "web").await, json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_ends_once_every_client_has_accepted_the_policy() {
    let serve = registry().await;
    with_subsets(&serve, &["v1"]).await;
    let client = serve.client().await;
    let mut stream = AdsClient::open_as(&client, StateOfTheWorld, "slow client").await;
    stream.subscribe(AdsType::Lds, &["payments"]);
    stream.accepted(AdsType::Lds).await;
    // Changes nothing, and waits until the registry has the client's answer.
    let same = ["subset", "set", "payments", "v1", "--filter", "\"v1\" in tags", "--wait"];
    let accepted = revision(&ok_words(&serve, &same).await);
    let change = ["policy", "set", "payments", "--timeout", "5s", "--wait=300ms"];
    let ended = run(&serve, &change).await;
    assert_eq!(ended.code(), Some(7), "the client has not answered: {}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("slow client"), "{}", ended.stdout);
    let expected = "the policy is set, but 0 of 1 xDS clients have it after 300ms: see `callboard clients`, or go back with \
                    `callboard policy rollback payments`";
    assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    let row: Vec<_> =
        ended.stdout.lines().last().unwrap().split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect();
    assert_eq!(row[3], accepted.to_string(), "the revision that the client has accepted: {}", ended.stdout);
    let address = serve.address();
    let waiting = Child::start(&["policy", "set", "payments", "--timeout", "5s", "--wait", "--server", &address]);
    // Steps of a change are responses of their own.
    let answering = async {
        loop {
            let response = stream.message().await.unwrap();
            stream.accept(&response);
        }
    };
    let ended = tokio::select! {
        ended = waiting.ended() => ended,
        () = answering => unreachable!("the stream stays open"),
    };
    assert_eq!(ended.code(), Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.ends_with("the only xDS client has it\n"), "{}", ended.stdout);
}
