//! Commands that would do something else than what is meant, and what the output says about a change.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy, copy_bidirectional},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{fails, file, ok, ok_words, path, policy, registry, revision, run, with_subsets};
use crate::{
    harness::{Child, ServerProcess, within},
    xds::ads_client::{AdsClient, AdsType, StateOfTheWorld},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_service_name_does_not_mean_the_defaults() {
    let serve = registry().await;
    ok(&serve, "policy set --defaults --timeout 5s").await;
    let table = file("[service.\"\"]\nshed = 100\n");
    for arguments in [
        &["policy", "unset", ""][..],
        &["policy", "set", "", "--shed", "100"],
        &["policy", "get", ""],
        &["policy", "history", ""],
        &["policy", "rollback", ""],
        &["policy", "diff", ""],
        &["subset", "set", "", "v1", "--filter", "weight == 1"],
        &["subset", "list", ""],
        &["route", "shift", "", "v1=100"],
        &["route", "list", ""],
    ] {
        let error = fails(&serve, 2, arguments).await;
        assert!(error.contains("the service name is empty: name a service"), "{arguments:?}: {error}");
    }
    let error = fails(&serve, 2, &["policy", "apply", "--file", path(&table)]).await;
    assert!(error.contains("has no name"), "{error}");
    assert_eq!(policy(&serve, "--defaults").await, json!({"timeout": "5s"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_without_a_field_removes_nothing() {
    let serve = registry().await;
    ok(&serve, "policy set web --timeout 5s").await;
    ok(&serve, "policy set --defaults --shed 1").await;
    for text in ["", "# nothing yet\n", "route = []\n", "{}\n"] {
        let error = fails(&serve, 2, &["policy", "set", "web", "--file", path(&file(text))]).await;
        assert!(
            error.contains("the file sets no field; remove the policy of web with `callboard policy unset web`"),
            "{error}"
        );
    }
    for text in ["[service.web]\n", "[defaults]\n[service.web]\nshed = 1\n", "[service]\n"] {
        fails(&serve, 2, &["policy", "apply", "--file", path(&file(text))]).await;
    }
    assert_eq!(policy(&serve, "web").await, json!({"timeout": "5s"}));
    assert_eq!(policy(&serve, "--defaults").await, json!({"shed": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollback_says_what_it_has_set() {
    let serve = registry().await;
    with_subsets(&serve, &["v1", "v2"]).await;
    let first = revision(&ok(&serve, "route shift payments v2=10").await);
    let second = revision(&ok(&serve, "route shift payments v2=60").await);
    let back = ok(&serve, "policy rollback payments").await;
    let expected = format!("set the policy of payments back to revision {first} (revision {}): ", revision(&back));
    assert_eq!(back, format!("{expected}default.v1 40 → 90, default.v2 60 → 10\n"));
    let forward = ok(&serve, "policy rollback payments").await;
    assert!(forward.starts_with(&format!("set the policy of payments back to revision {second} ")), "{forward}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finished_canary_has_no_warnings_and_gives_its_subset_up_in_order() {
    let serve = registry().await;
    let error = fails(&serve, 3, &["route", "shift", "payments", "v2=10"]).await;
    assert!(
        error.contains("payments has no subset `v2`; it has none: define it with `callboard subset set payments v2"),
        "{error}"
    );
    with_subsets(&serve, &["v1", "v2"]).await;
    for shift in ["v2=10", "v2=100"] {
        let ended = run(&serve, &["route", "shift", "payments", shift]).await;
        assert_eq!((ended.code(), &*ended.stderr), (Some(0), ""));
    }
    ok_words(&serve, &["route", "add", "payments", "--match", "header:x-old=1→v1"]).await;
    let error = fails(&serve, 2, &["subset", "unset", "payments", "v1"]).await;
    assert!(
        error.contains("route 0 of payments leads to v1: remove it first with `callboard route remove payments 0`"),
        "{error}"
    );
    ok(&serve, "route remove payments 0").await;
    ok(&serve, "subset unset payments v1").await;
    let error = fails(&serve, 2, &["subset", "unset", "payments", "v2"]).await;
    assert!(error.contains("v2 takes 100 % of the default split of payments"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shift_names_the_subset_that_rounding_leaves_without_calls() {
    let serve = registry().await;
    with_subsets(&serve, &["v1", "v2", "v3"]).await;
    ok(&serve, "route set payments --split v1=60,v2=24,v3=16").await;
    let ended = run(&serve, &["route", "shift", "payments", "v1=99"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.starts_with("note: v3 gets no calls any more"), "{}", ended.stderr);
    ok(&serve, "route shift payments v1=100").await;
    let error = fails(&serve, 2, &["route", "shift", "payments", "v1=98"]).await;
    assert!(error.contains("2 % of the calls have no subset: name one for them, as in v1=98,v2=2;"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn route_may_lead_to_the_whole_service_and_match_all_calls() {
    let serve = registry().await;
    ok(&serve, "route add web --match method:/a.B/Stream --timeout 0s").await;
    ok(&serve, "policy set web --lb ring_hash").await;
    ok(&serve, "route add web --match * --hash-header x-user").await;
    let expected = json!([{"method": "/a.B/Stream", "timeout": "0s"}, {"hash_header": "x-user"}]);
    assert_eq!(policy(&serve, "web").await["route"], expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warnings_of_apply_name_the_policy() {
    let serve = registry().await;
    let several = file("[service.x1]\nfallback = [\"y\"]\n[service.x2]\nfallback = [\"y\"]\n");
    let ended = run(&serve, &["policy", "apply", "--file", path(&several)]).await;
    for service in ["x1", "x2"] {
        let expected =
            format!("warning: the policy of {service}: fallback[0] names \"y\", which has no routable instance");
        assert!(ended.stderr.contains(&expected), "{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effective_policy_as_json_has_its_revision_and_the_inherited_fields() {
    let serve = registry().await;
    ok(&serve, "policy set --defaults --shed 5").await;
    let set = revision(&ok(&serve, "policy set web --outlier default").await);
    let view: Value = serde_json::from_str(&ok(&serve, "policy get web --effective -o json").await).unwrap();
    assert_eq!((&view["revision"], &view["inherited"]), (&json!(set), &json!(["shed"])));
    assert_eq!((&view["policy"]["shed"], &view["policy"]["outlier"]["hosts"]), (&json!(5), &json!(3)));
    assert_eq!(policy(&serve, "web").await, json!({"outlier": "default"}));
    ok(&serve, &format!("policy set web --shed 1 --if-revision {set}")).await;
    let error = fails(&serve, 8, &["policy", "set", "web", "--shed", "2", "--if-revision", &set.to_string()]).await;
    assert!(error.contains(&set.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connection_during_a_change_is_not_an_unreachable_registry() {
    let serve = registry().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap().to_string();
    let set = Child::start(&["policy", "set", "web", "--shed", "1", "--server", &proxy]);
    let losing = async {
        lose_connection(&listener, &serve, 1).await;
        drop(listener);
    };
    let (ended, ()) = tokio::join!(set.ended(), losing);
    assert_eq!(ended.code(), Some(4), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains("was lost while the policy of web was set"), "{}", ended.stderr);
    assert!(ended.stderr.contains("see `callboard policy history web`"), "{}", ended.stderr);
}

/// Accepts a connection to the registry, and closes it when its client makes one call more than these.
async fn lose_connection(listener: &TcpListener, serve: &ServerProcess, calls: u32) {
    let (from_client, mut to_client) = listener.accept().await.unwrap().0.into_split();
    let (mut from_server, to_server) = TcpStream::connect(serve.address()).await.unwrap().into_split();
    tokio::select! {
        () = pass_calls(from_client, to_server, calls) => {}
        _ = copy(&mut from_server, &mut to_client) => unreachable!("the registry keeps the connection"),
    }
}

/// Passes on the frames of a client until it makes one call more than these.
async fn pass_calls(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, allowed: u32) {
    const PREFACE_BYTES: usize = 24;
    const HEADERS: u8 = 1;
    let mut preface = [0; PREFACE_BYTES];
    from.read_exact(&mut preface).await.unwrap();
    to.write_all(&preface).await.unwrap();
    let mut calls = 0;
    loop {
        let mut head = [0; 9];
        from.read_exact(&mut head).await.unwrap();
        calls += u32::from(head[3] == HEADERS);
        if calls > allowed {
            return;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        from.read_exact(&mut payload).await.unwrap();
        to.write_all(&head).await.unwrap();
        to.write_all(&payload).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_outlives_a_restart_of_the_registry() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--settle", "0", "--data-dir", folder.path().to_str().unwrap()];
    let serve = ServerProcess::start(&arguments).await;
    with_subsets(&serve, &["v1"]).await;
    let client = serve.client().await;
    let mut stream = AdsClient::open_as(&client, StateOfTheWorld, "slow client").await;
    stream.subscribe(AdsType::Lds, &["payments"]);
    stream.accepted(AdsType::Lds).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap().to_string();
    let waiting = Child::start(&["policy", "set", "payments", "--timeout", "5s", "--wait", "--server", &proxy]);
    // The command has read and set the policy, and knows that the client does not have it yet.
    lose_connection(&listener, &serve, 3).await;
    let serve = serve.restart(&arguments).await;
    let to = serve.address();
    let passing = async {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(&to).await.unwrap();
            // The command closes its connections when it ends.
            let _ = copy_bidirectional(&mut near, &mut far).await;
        }
    };
    let client = serve.client().await;
    let mut stream = AdsClient::open_as(&client, StateOfTheWorld, "slow client").await;
    stream.subscribe(AdsType::Lds, &["payments"]);
    let answering = async {
        loop {
            let response = stream.message().await.unwrap();
            stream.accept(&response);
        }
    };
    let ended = tokio::select! {
        ended = within("the command", waiting.ended()) => ended,
        () = answering => unreachable!("the stream stays open"),
        () = passing => unreachable!("the listener stays open"),
    };
    assert_eq!(ended.code(), Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.ends_with("the only xDS client has it\n"), "{}", ended.stdout);
}
