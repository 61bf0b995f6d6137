//! Names of nodes, aliases, empty non-terminals and truncated answers, about services that are registered through Consul's API. The
//! expected answers are those of Consul 1.21.4, without the node metadata that it adds to SRV answers.

use std::collections::BTreeSet;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, RecordType},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    assert_empty,
    client::{DnsClient, data, query, with_edns},
    start,
};
use crate::{
    consul_replay::client as http,
    harness::{ServerProcess, within},
};

async fn put(server: &ServerProcess, path: &str, body: &Value) {
    let answer = http::ask(server.http, "PUT", path, &body.to_string(), |text| text).await;
    assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
}

async fn register_service(server: &ServerProcess, body: Value) {
    put(server, "/v1/agent/service/register", &body).await;
}

async fn register_in_catalog(server: &ServerProcess, body: Value) {
    put(server, "/v1/catalog/register", &body).await;
}

/// Returns owner and data of the additional records, without the OPT record, sorted.
fn additionals(response: &Message) -> Vec<String> {
    let mut all: Vec<_> =
        response.additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    all.sort();
    all
}

/// Returns owner and data of the answers, in their order.
fn chain(response: &Message) -> Vec<String> {
    assert_eq!(response.metadata.response_code, ResponseCode::NoError, "{response:?}");
    response.answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect()
}

#[tokio::test]
async fn srv_targets_of_consul_services_are_their_nodes() {
    let (server, _client, dns) = start().await;
    register_service(&server, json!({"ID": "y1", "Name": "yy", "Port": 70})).await;
    register_service(&server, json!({"ID": "y2", "Name": "yy", "Port": 71})).await;
    let onbare = json!({"Service": "onbare", "ID": "ob", "Port": 9});
    register_in_catalog(&server, json!({"Node": "bare", "Address": "198.51.100.40", "Service": onbare})).await;
    let wk = json!({"Service": "wk", "ID": "wk", "Address": "203.0.113.1", "Port": 1});
    register_in_catalog(&server, json!({"Node": "w1", "Address": "198.51.100.42", "Service": wk})).await;

    let response = dns.ask("yy.service.consul.", RecordType::SRV).await;
    assert_eq!(data(&response), ["1 1 70 n1.node.dc1.consul.", "1 1 71 n1.node.dc1.consul."]);
    assert_eq!(additionals(&response), ["n1.node.dc1.consul. 127.0.0.1"]);
    assert_eq!(data(&dns.ask("yy.service.consul.", RecordType::A).await), ["127.0.0.1"]);
    let response = dns.ask("onbare.service.consul.", RecordType::SRV).await;
    assert_eq!(data(&response), ["1 1 9 bare.node.dc1.consul."]);
    assert_eq!(additionals(&response), ["bare.node.dc1.consul. 198.51.100.40"]);
    let response = dns.ask("wk.service.consul.", RecordType::SRV).await;
    assert_eq!(data(&response), ["1 1 1 cb007101.addr.dc1.consul."]);
    assert_eq!(additionals(&response), ["cb007101.addr.dc1.consul. 203.0.113.1"]);

    // Instances without an address of their own move with their node.
    register_in_catalog(&server, json!({"Node": "bare", "Address": "198.51.100.43"})).await;
    let response = dns.ask("onbare.service.consul.", RecordType::SRV).await;
    assert_eq!(
        (data(&response).concat(), additionals(&response).concat()),
        ("1 1 9 bare.node.dc1.consul.".to_owned(), "bare.node.dc1.consul. 198.51.100.43".to_owned())
    );
}

#[tokio::test]
async fn reverse_names_of_nodes_and_services_are_answered() {
    let (server, _client, dns) = start().await;
    register_service(&server, json!({"ID": "y1", "Name": "yy", "Port": 70})).await;
    let wk = json!({"Service": "wk", "ID": "wk", "Address": "203.0.113.1", "Port": 1});
    register_in_catalog(&server, json!({"Node": "bare", "Address": "198.51.100.40", "Service": wk})).await;
    register_in_catalog(&server, json!({"Node": "v6node", "Address": "2001:db8::5"})).await;
    let six = "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.";
    let (bare, service_at) = ("40.100.51.198.in-addr.arpa.", "1.113.0.203.in-addr.arpa.");
    for (name, target) in [
        (bare, "bare.node.dc1.consul."),
        (service_at, "wk.service.dc1.consul."),
        ("1.0.0.127.in-addr.arpa.", "n1.node.dc1.consul."),
        (six, "v6node.node.dc1.consul."),
    ] {
        assert_eq!(data(&dns.ask(name, RecordType::PTR).await), [target], "{name}");
        assert_eq!(data(&dns.ask_tcp(&query(name, RecordType::PTR)).await), [target], "{name}");
        assert_empty(&dns.ask(name, RecordType::A).await, ResponseCode::NoError);
    }
    for absent in ["99.113.0.203.in-addr.arpa.", &six.replacen('5', "9", 1)] {
        assert_empty(&dns.ask(absent, RecordType::PTR).await, ResponseCode::NXDomain);
    }
    assert_empty(&dns.ask("113.0.203.in-addr.arpa.", RecordType::PTR).await, ResponseCode::NoError);
    assert_eq!(data(&dns.ask("v6node.node.consul.", RecordType::AAAA).await), ["2001:db8::5"]);
    assert_empty(&dns.ask("v6node.node.consul.", RecordType::A).await, ResponseCode::NoError);
}

/// The first question for a reverse name reads all instances, in bounded steps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_reverse_questions_in_a_large_registry_are_answered() {
    let (server, client, dns) = start().await;
    let mut registering = JoinSet::new();
    for part in 0..10 {
        let client = client.clone();
        registering.spawn(async move {
            for n in 0..250 {
                super::register(&client, "web", &format!("{part}-{n}"), &format!("10.1.{part}.{n}"), &[]).await;
            }
        });
    }
    while let Some(done) = registering.join_next().await {
        done.unwrap();
    }
    let mut asking = JoinSet::new();
    for n in 0..10 {
        let address = server.dns.unwrap();
        asking.spawn(async move {
            let dns = DnsClient::new(address).await;
            let query = query(&format!("7.{n}.1.10.in-addr.arpa."), RecordType::PTR);
            let response = if n % 2 == 0 { dns.ask_udp(&query).await } else { dns.ask_tcp(&query).await };
            assert_eq!(data(&response), ["web.service.dc1.consul."]);
        });
    }
    assert_eq!(data(&dns.ask("n1.node.consul.", RecordType::A).await), ["127.0.0.1"]);
    while let Some(done) = within("all responses", asking.join_next()).await {
        done.unwrap();
    }
}

#[tokio::test]
async fn alias_in_the_zone_is_followed() {
    let (server, _client, dns) = start().await;
    register_service(&server, json!({"ID": "na", "Name": "noaddr", "Port": 6081})).await;
    register_service(&server, json!({"ID": "al", "Name": "alias", "Address": "noaddr.service.consul", "Port": 1}))
        .await;
    register_service(&server, json!({"ID": "on", "Name": "onnode", "Address": "n1.node.consul", "Port": 1})).await;
    register_service(&server, json!({"ID": "me", "Name": "selfie", "Address": "selfie.service.consul", "Port": 1}))
        .await;
    register_service(&server, json!({"ID": "l1", "Name": "loopa", "Address": "loopb.service.consul"})).await;
    register_service(&server, json!({"ID": "l2", "Name": "loopb", "Address": "loopa.service.consul"})).await;
    for (name, expected) in [
        ("alias", ["alias.service.consul. noaddr.service.consul.", "noaddr.service.consul. 127.0.0.1"].as_slice()),
        ("onnode", &["onnode.service.consul. n1.node.consul.", "n1.node.consul. 127.0.0.1"]),
        ("selfie", &["selfie.service.consul. 127.0.0.1"]),
        ("loopa", &["loopa.service.consul. loopb.service.consul.", "loopb.service.consul. loopa.service.consul."]),
    ] {
        let response = dns.ask(&format!("{name}.service.consul."), RecordType::A).await;
        assert_eq!(chain(&response), expected, "{name}");
        assert!(response.authorities.is_empty() && !response.metadata.truncation);
    }
    for (name, target, additional) in [
        ("alias", "1 1 1 noaddr.service.consul.", Some("noaddr.service.consul. 127.0.0.1")),
        ("selfie", "1 1 1 n1.node.dc1.consul.", Some("n1.node.dc1.consul. 127.0.0.1")),
        ("loopa", "1 1 0 loopb.service.consul.", None),
    ] {
        let response = dns.ask(&format!("{name}.service.consul."), RecordType::SRV).await;
        assert_eq!(data(&response), [target], "{name}");
        assert_eq!(additionals(&response), additional.into_iter().collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn alias_of_a_large_service_has_the_addresses_that_fit() {
    let (server, client, dns) = start().await;
    for n in 0..100 {
        super::register(&client, "big", &format!("i{n}"), &format!("10.0.0.{n}"), &[]).await;
    }
    register_service(&server, json!({"ID": "al", "Name": "alias", "Address": "big.service.consul", "Port": 1})).await;
    let (name, record_type) = ("alias.service.consul.", RecordType::A);
    for (query, max_bytes, kept) in
        [(query(name, record_type), 512, 25..32), (with_edns(query(name, record_type), 1_232), 1_232, 70..77)]
    {
        let (response, length) = dns.send(&query).await.unwrap();
        assert!(
            response.metadata.truncation && length <= max_bytes && kept.contains(&response.answers.len()),
            "{length}"
        );
    }
    let whole = dns.ask_tcp(&query(name, record_type)).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 101);
    assert!(whole.answers[1..].iter().all(|record| record.name.to_ascii() == "big.service.consul."));
    let (response, _) = dns.send(&query(name, RecordType::SRV)).await.unwrap();
    assert!(!response.metadata.truncation && response.answers.len() == 1 && response.additionals.len() > 1);
}

#[tokio::test]
async fn empty_non_terminals_are_answered_without_records() {
    let (server, client, dns) = start().await;
    register_in_catalog(&server, json!({"Node": "deep.example.org", "Address": "198.51.100.41"})).await;
    super::register(&client, "v2.billing", "a", "10.0.0.1", &["x.y"]).await;
    assert_eq!(data(&dns.ask("deep.example.org.node.consul.", RecordType::A).await), ["198.51.100.41"]);
    assert_eq!(data(&dns.ask("x.y.v2.billing.service.consul.", RecordType::A).await), ["10.0.0.1"]);
    let non_terminals = [
        "example.org.node",
        "org.node",
        "node",
        "node.dc1",
        "billing.service",
        "billing.service.dc1",
        "y.v2.billing.service",
        "_tcp.service",
        "_tcp.service.dc1",
        "billing._tcp.service",
        "addr",
        "service",
        "dc1",
    ];
    let absent =
        ["xample.org.node", "net.node", "v2.service", "x.y.z.service", "y.billing.service", "org.node.dc2", "else"];
    for record_type in
        [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT, RecordType::ANY, RecordType::MX]
    {
        for name in non_terminals {
            assert_empty(&dns.ask(&format!("{name}.consul."), record_type).await, ResponseCode::NoError);
        }
        for name in absent {
            assert_empty(&dns.ask(&format!("{name}.consul."), record_type).await, ResponseCode::NXDomain);
        }
    }
}

#[tokio::test]
async fn names_that_differ_in_case_are_answered_together() {
    let (server, client, dns) = start().await;
    register_service(&server, json!({"ID": "c1", "Name": "cache", "Port": 1})).await;
    register_service(&server, json!({"ID": "c2", "Name": "Cache", "Port": 2})).await;
    super::register(&client, "CACHE", "c3", "10.0.0.3", &["V1"]).await;
    register_in_catalog(&server, json!({"Node": "Edge07", "Address": "198.51.100.7"})).await;
    let response = dns.ask("cAcHe.service.consul.", RecordType::SRV).await;
    let all = ["1 1 1 n1.node.dc1.consul.", "1 1 2 n1.node.dc1.consul.", "1 1 80 0a000003.addr.dc1.consul."];
    assert_eq!(data(&response), all);
    assert!(
        response.answers.iter().all(|record| record.name.to_ascii() == "cAcHe.service.consul."),
        "in the spelling of the question"
    );
    assert_eq!(additionals(&response).len(), 2);
    assert_eq!(data(&dns.ask("v1.cache.service.consul.", RecordType::A).await), ["10.0.0.3"]);
    let response = dns.ask("eDGE07.Node.consul.", RecordType::A).await;
    assert_eq!(chain(&response), ["eDGE07.Node.consul. 198.51.100.7"]);
}

/// Asserts that the additional records are the addresses of the SRV targets, each once.
fn assert_complete(response: &Message) {
    let target = |data: &RData| match data {
        RData::SRV(srv) => srv.target.clone(),
        other => panic!("{other} is not an SRV record"),
    };
    let targets: BTreeSet<_> = response.answers.iter().map(|record| target(&record.data)).collect();
    let owners: BTreeSet<_> = response.additionals.iter().map(|record| record.name.clone()).collect();
    assert_eq!((&targets, response.additionals.len()), (&owners, owners.len()));
}

#[tokio::test]
async fn truncated_answer_has_an_address_for_each_record() {
    let (server, client, dns) = start().await;
    for n in 0..40 {
        super::register(&client, "big", &format!("i{n}"), &format!("10.0.1.{n}"), &[]).await;
        let on = json!({"Service": "nodes", "ID": format!("s{n}"), "Port": n + 1});
        let node = format!("{}-{n}.{}", "n".repeat(60), "m".repeat(60));
        register_in_catalog(&server, json!({"Node": node, "Address": format!("198.51.100.{n}"), "Service": on})).await;
    }
    for (service, per_record) in [("big", 60), ("nodes", 180)] {
        let name = format!("{service}.service.consul.");
        for offered in [None, Some(0), Some(512), Some(600), Some(1_232), Some(4_096)] {
            let query = query(&name, RecordType::SRV);
            let query = offered.map_or(query.clone(), |offered| with_edns(query, offered));
            let (response, length) = dns.send(&query).await.unwrap();
            let max_bytes = usize::from(offered.unwrap_or(512).max(512));
            assert!(length <= max_bytes, "{length} in {max_bytes}");
            let fit = response.answers.len();
            assert!(fit == 40 || fit >= (max_bytes - 60) / per_record, "{fit} of {service} in {max_bytes}");
            assert_eq!(response.metadata.truncation, fit < 40);
            assert_complete(&response);
        }
        let whole = dns.ask_tcp(&query(&name, RecordType::SRV)).await;
        assert!(!whole.metadata.truncation && whole.answers.len() == 40);
        assert_complete(&whole);
    }
}

#[tokio::test]
async fn longest_names_are_answered_within_the_limits() {
    let (_serve, client, dns) = start().await;
    let labels = |last: usize| ["a", "b", "c"].map(|letter| letter.repeat(63)).join(".") + "." + &"d".repeat(last);
    // With ".service.consul." these are the longest names that DNS allows. With ".service.dc1.consul." they would be too long.
    let long = labels(45);
    let target = labels(61);
    super::register(&client, &long, "a", &target, &[]).await;
    super::register(&client, "many", "a", &target, &[]).await;
    for n in 0..9 {
        super::register(&client, "many", &format!("i{n}"), &format!("{n}{}", &target[1..]), &[]).await;
    }
    for (name, record_type, number) in [
        (format!("{long}.service.consul."), RecordType::SRV, 0),
        (format!("{long}.service.consul."), RecordType::CNAME, 0),
        ("many.service.consul.".to_owned(), RecordType::SRV, 1),
        ("many.service.consul.".to_owned(), RecordType::A, 1),
    ] {
        let (response, length) = dns.send(&query(&name, record_type)).await.unwrap();
        assert!(length <= 512, "{length}");
        assert_eq!(response.answers.len(), number, "{name} {record_type}");
        assert_eq!(response.metadata.truncation, record_type != RecordType::A);
        let whole = dns.ask_tcp(&query(&name, record_type)).await;
        assert!(!whole.metadata.truncation && !whole.answers.is_empty());
    }
    // All names above it exist.
    let mut above = format!("{long}.service.consul.");
    while let Some((_, rest)) = above.split_once('.')
        && !rest.is_empty()
        && rest != "consul."
    {
        assert_empty(&dns.ask(rest, RecordType::A).await, ResponseCode::NoError);
        above = rest.to_owned();
    }
}
