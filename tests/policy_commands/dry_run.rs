//! Changes of policies that are only tried.

use callboard::pb::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use serde_json::{Value, json};

use super::{file, ok, path, policy, registry, run};
use crate::xds::ads_client::{AdsClient, AdsType, StateOfTheWorld};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_run_judges_the_policies_of_a_file_together() {
    let serve = registry().await;
    ok(&serve, "policy set --defaults --lb ring_hash").await;
    ok(&serve, "policy set a --fallback b").await;
    let dry_run = async |text: &str| run(&serve, &["policy", "apply", "--dry-run", "--file", path(&file(text))]).await;

    // Each of these policies is valid only with the other.
    let valid = dry_run("[defaults]\nlb = \"round_robin\"\n[service.web]\nslow_start = \"60s\"\n").await;
    assert_eq!(valid.code(), Some(0), "{}{}", valid.stdout, valid.stderr);
    assert!(valid.stdout.contains("+slow_start") && valid.stdout.contains("-lb"), "{}", valid.stdout);
    let exchanged = dry_run("[service.b]\nfallback = [\"a\"]\n[service.a]\nshed = 1\n").await;
    assert_eq!(exchanged.code(), Some(0), "{}{}", exchanged.stdout, exchanged.stderr);

    let alone = dry_run("[service.web]\nslow_start = \"60s\"\n").await;
    assert_eq!(alone.code(), Some(2), "the present defaults have a ring: {}", alone.stdout);
    let cycle =
        dry_run("[service.x]\nfallback = [\"y\"]\n[service.y]\nfallback = [\"x\"]\n[service.z]\nshed = 1\n").await;
    assert_eq!(cycle.code(), Some(2), "{}{}", cycle.stdout, cycle.stderr);
    for part in ["the policy of x: fallback \"y\" leads back", "the policy of y: fallback \"x\" leads back"] {
        assert!(cycle.stderr.contains(part), "{part}: {}", cycle.stderr);
    }
    assert!(cycle.stdout.contains("+shed"), "the valid policy is shown: {}", cycle.stdout);
    let invalid = dry_run("[service.x]\ntimeout = \"soon\"\n").await;
    assert!(invalid.code() == Some(2) && invalid.stderr.contains("timeout \"soon\""), "{}", invalid.stderr);
    assert_eq!(policy(&serve, "--defaults").await, json!({"lb": "ring_hash"}));
    assert_eq!([policy(&serve, "web").await, policy(&serve, "x").await], [json!({}), json!({})]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_run_names_the_connected_clients_that_would_not_follow_the_policy() {
    let serve = registry().await;
    let node = Node {
        id: "old client".to_owned(),
        user_agent_name: "gRPC Go".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion("1.44.0".to_owned())),
        ..Node::default()
    };
    let mut stream = AdsClient::open_node(&serve.client().await, StateOfTheWorld, node).await;
    stream.subscribe(AdsType::Lds, &["payments"]);
    stream.accepted(AdsType::Lds).await;
    let follows = run(&serve, &["policy", "set", "payments", "--timeout", "5s", "--dry-run"]).await;
    assert!(follows.stderr.contains("every connected client would follow the policy"), "{}", follows.stderr);
    let table = ok(&serve, "policy set payments --lb least_request --dry-run").await;
    let row = ["lb", "gRPC Go 1.44.0", "1", "uses round robin", "1.73"];
    let has_row =
        |table: &str| table.lines().any(|line| line.split("  ").map(str::trim).filter(|it| !it.is_empty()).eq(row));
    assert!(has_row(&table), "{table}");
    let json: Value =
        serde_json::from_str(&ok(&serve, "policy set payments --lb least_request --dry-run -o json").await).unwrap();
    let limitation = json!({
        "field": "lb", "agent": "gRPC Go 1.44.0", "streams": 1, "behaviour": "uses round robin", "since": "1.73"
    });
    assert_eq!(json["limitations"], json!([limitation]));
    // The field comes from the defaults of the same file.
    let both = file("[defaults]\nlb = \"least_request\"\n[service.payments]\nshed = 1\n");
    let table = ok(&serve, &format!("policy apply --file {} --dry-run", path(&both))).await;
    let of_service = table.split_once("+shed").unwrap().1;
    assert!(has_row(of_service), "{table}");
    assert_eq!(policy(&serve, "payments").await, json!({}));
}
