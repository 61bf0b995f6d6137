//! Names of nodes, aliases, names between and cut answers, about what was registered through Consul's API: what is answered is what
//! Consul 1.21.4 answered, apart from the metadata of nodes that its build adds to SRV records.

use std::collections::BTreeSet;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, RecordType},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    asker::{Asker, data, offering, query},
    denied, house,
};
use crate::{
    consul_replay::client,
    harness::{ServerProcess, within},
};

async fn put(serve: &ServerProcess, path: &str, body: &Value) {
    let answer = client::ask(serve.http, "PUT", path, &body.to_string(), |text| text).await;
    assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
}

async fn service(serve: &ServerProcess, body: Value) {
    put(serve, "/v1/agent/service/register", &body).await;
}

async fn catalog(serve: &ServerProcess, body: Value) {
    put(serve, "/v1/catalog/register", &body).await;
}

/// The additional records but for EDNS, sorted.
fn helped(reply: &Message) -> Vec<String> {
    let mut all: Vec<_> = reply.additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    all.sort();
    all
}

/// The answers in order, whose and what.
fn chain(reply: &Message) -> Vec<String> {
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{reply:?}");
    reply.answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect()
}

#[tokio::test]
async fn srv_of_consul_services_leads_to_their_nodes() {
    let (serve, _peer, asker) = house().await;
    service(&serve, json!({"ID": "y1", "Name": "yy", "Port": 70})).await;
    service(&serve, json!({"ID": "y2", "Name": "yy", "Port": 71})).await;
    let onbare = json!({"Service": "onbare", "ID": "ob", "Port": 9});
    catalog(&serve, json!({"Node": "bare", "Address": "198.51.100.40", "Service": onbare})).await;
    let wk = json!({"Service": "wk", "ID": "wk", "Address": "203.0.113.1", "Port": 1});
    catalog(&serve, json!({"Node": "w1", "Address": "198.51.100.42", "Service": wk})).await;

    let reply = asker.ask("yy.service.consul.", RecordType::SRV).await;
    assert_eq!(data(&reply), ["1 1 70 n1.node.dc1.consul.", "1 1 71 n1.node.dc1.consul."]);
    assert_eq!(helped(&reply), ["n1.node.dc1.consul. 127.0.0.1"]);
    assert_eq!(data(&asker.ask("yy.service.consul.", RecordType::A).await), ["127.0.0.1"]);
    let reply = asker.ask("onbare.service.consul.", RecordType::SRV).await;
    assert_eq!(data(&reply), ["1 1 9 bare.node.dc1.consul."]);
    assert_eq!(helped(&reply), ["bare.node.dc1.consul. 198.51.100.40"]);
    let reply = asker.ask("wk.service.consul.", RecordType::SRV).await;
    assert_eq!(data(&reply), ["1 1 1 cb007101.addr.dc1.consul."]);
    assert_eq!(helped(&reply), ["cb007101.addr.dc1.consul. 203.0.113.1"]);

    // The node moves: those on it without an address of their own move along.
    catalog(&serve, json!({"Node": "bare", "Address": "198.51.100.43"})).await;
    let reply = asker.ask("onbare.service.consul.", RecordType::SRV).await;
    assert_eq!(
        (data(&reply).concat(), helped(&reply).concat()),
        ("1 1 9 bare.node.dc1.consul.".to_owned(), "bare.node.dc1.consul. 198.51.100.43".to_owned())
    );
}

#[tokio::test]
async fn reverse_names_of_nodes_and_services_are_found() {
    let (serve, _peer, asker) = house().await;
    service(&serve, json!({"ID": "y1", "Name": "yy", "Port": 70})).await;
    let wk = json!({"Service": "wk", "ID": "wk", "Address": "203.0.113.1", "Port": 1});
    catalog(&serve, json!({"Node": "bare", "Address": "198.51.100.40", "Service": wk})).await;
    catalog(&serve, json!({"Node": "v6node", "Address": "2001:db8::5"})).await;
    let six = "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.";
    let (bare, service_at) = ("40.100.51.198.in-addr.arpa.", "1.113.0.203.in-addr.arpa.");
    for (name, target) in [
        (bare, "bare.node.dc1.consul."),
        (service_at, "wk.service.dc1.consul."),
        ("1.0.0.127.in-addr.arpa.", "n1.node.dc1.consul."),
        (six, "v6node.node.dc1.consul."),
    ] {
        assert_eq!(data(&asker.ask(name, RecordType::PTR).await), [target], "{name}");
        assert_eq!(data(&asker.ask_tcp(&query(name, RecordType::PTR)).await), [target], "{name}");
        denied(&asker.ask(name, RecordType::A).await, ResponseCode::NoError);
    }
    for absent in ["99.113.0.203.in-addr.arpa.", &six.replacen('5', "9", 1)] {
        denied(&asker.ask(absent, RecordType::PTR).await, ResponseCode::NXDomain);
    }
    denied(&asker.ask("113.0.203.in-addr.arpa.", RecordType::PTR).await, ResponseCode::NoError);
    assert_eq!(data(&asker.ask("v6node.node.consul.", RecordType::AAAA).await), ["2001:db8::5"]);
    denied(&asker.ask("v6node.node.consul.", RecordType::A).await, ResponseCode::NoError);
}

/// The first question for a reverse name reads all instances, while other questions are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_reverse_question_in_a_large_registry_is_answered() {
    let (serve, peer, asker) = house().await;
    let mut registering = JoinSet::new();
    for part in 0..10 {
        let peer = peer.clone();
        registering.spawn(async move {
            for n in 0..250 {
                super::register(&peer, "web", &format!("{part}-{n}"), &format!("10.1.{part}.{n}"), &[]).await;
            }
        });
    }
    while let Some(done) = registering.join_next().await {
        done.unwrap();
    }
    let mut asking = JoinSet::new();
    for n in 0..10 {
        let server = serve.dns.unwrap();
        asking.spawn(async move {
            let asker = Asker::new(server).await;
            let query = query(&format!("7.{n}.1.10.in-addr.arpa."), RecordType::PTR);
            let reply = if n % 2 == 0 { asker.patiently(&query).await } else { asker.ask_tcp(&query).await };
            assert_eq!(data(&reply), ["web.service.dc1.consul."]);
        });
    }
    assert_eq!(data(&asker.ask("n1.node.consul.", RecordType::A).await), ["127.0.0.1"]);
    while let Some(done) = within("all answers", asking.join_next()).await {
        done.unwrap();
    }
}

#[tokio::test]
async fn aliases_into_the_zone_are_followed() {
    let (serve, _peer, asker) = house().await;
    service(&serve, json!({"ID": "na", "Name": "noaddr", "Port": 6081})).await;
    service(&serve, json!({"ID": "al", "Name": "alias", "Address": "noaddr.service.consul", "Port": 1})).await;
    service(&serve, json!({"ID": "on", "Name": "onnode", "Address": "n1.node.consul", "Port": 1})).await;
    service(&serve, json!({"ID": "me", "Name": "selfie", "Address": "selfie.service.consul", "Port": 1})).await;
    service(&serve, json!({"ID": "l1", "Name": "loopa", "Address": "loopb.service.consul"})).await;
    service(&serve, json!({"ID": "l2", "Name": "loopb", "Address": "loopa.service.consul"})).await;
    for (name, expected) in [
        ("alias", ["alias.service.consul. noaddr.service.consul.", "noaddr.service.consul. 127.0.0.1"].as_slice()),
        ("onnode", &["onnode.service.consul. n1.node.consul.", "n1.node.consul. 127.0.0.1"]),
        ("selfie", &["selfie.service.consul. 127.0.0.1"]),
        ("loopa", &["loopa.service.consul. loopb.service.consul.", "loopb.service.consul. loopa.service.consul."]),
    ] {
        let reply = asker.ask(&format!("{name}.service.consul."), RecordType::A).await;
        assert_eq!(chain(&reply), expected, "{name}");
        assert!(reply.authorities.is_empty() && !reply.metadata.truncation);
    }
    for (name, target, help) in [
        ("alias", "1 1 1 noaddr.service.consul.", Some("noaddr.service.consul. 127.0.0.1")),
        ("selfie", "1 1 1 n1.node.dc1.consul.", Some("n1.node.dc1.consul. 127.0.0.1")),
        ("loopa", "1 1 0 loopb.service.consul.", None),
    ] {
        let reply = asker.ask(&format!("{name}.service.consul."), RecordType::SRV).await;
        assert_eq!(data(&reply), [target], "{name}");
        assert_eq!(helped(&reply), help.into_iter().collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn alias_of_a_large_service_brings_what_fits() {
    let (serve, peer, asker) = house().await;
    for n in 0..100 {
        super::register(&peer, "big", &format!("i{n}"), &format!("10.0.0.{n}"), &[]).await;
    }
    service(&serve, json!({"ID": "al", "Name": "alias", "Address": "big.service.consul", "Port": 1})).await;
    let (name, kind) = ("alias.service.consul.", RecordType::A);
    for (query, most, kept) in [(query(name, kind), 512, 25..32), (offering(query(name, kind), 1_232), 1_232, 70..77)] {
        let (reply, length) = asker.send(&query).await.unwrap();
        assert!(reply.metadata.truncation && length <= most && kept.contains(&reply.answers.len()), "{length}");
    }
    let whole = asker.ask_tcp(&query(name, kind)).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 101);
    assert!(whole.answers[1..].iter().all(|record| record.name.to_ascii() == "big.service.consul."));
    let (reply, _) = asker.send(&query(name, RecordType::SRV)).await.unwrap();
    assert!(!reply.metadata.truncation && reply.answers.len() == 1 && reply.additionals.len() > 1);
}

#[tokio::test]
async fn names_between_are_answered_with_nothing() {
    let (serve, peer, asker) = house().await;
    catalog(&serve, json!({"Node": "deep.example.org", "Address": "198.51.100.41"})).await;
    super::register(&peer, "v2.billing", "a", "10.0.0.1", &["x.y"]).await;
    assert_eq!(data(&asker.ask("deep.example.org.node.consul.", RecordType::A).await), ["198.51.100.41"]);
    assert_eq!(data(&asker.ask("x.y.v2.billing.service.consul.", RecordType::A).await), ["10.0.0.1"]);
    let between = [
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
    for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT, RecordType::ANY, RecordType::MX] {
        for name in between {
            denied(&asker.ask(&format!("{name}.consul."), kind).await, ResponseCode::NoError);
        }
        for name in absent {
            denied(&asker.ask(&format!("{name}.consul."), kind).await, ResponseCode::NXDomain);
        }
    }
}

#[tokio::test]
async fn names_that_differ_in_case_are_one() {
    let (serve, peer, asker) = house().await;
    service(&serve, json!({"ID": "c1", "Name": "cache", "Port": 1})).await;
    service(&serve, json!({"ID": "c2", "Name": "Cache", "Port": 2})).await;
    super::register(&peer, "CACHE", "c3", "10.0.0.3", &["V1"]).await;
    catalog(&serve, json!({"Node": "Edge07", "Address": "198.51.100.7"})).await;
    let reply = asker.ask("cAcHe.service.consul.", RecordType::SRV).await;
    let all = ["1 1 1 n1.node.dc1.consul.", "1 1 2 n1.node.dc1.consul.", "1 1 80 0a000003.addr.dc1.consul."];
    assert_eq!(data(&reply), all);
    assert!(reply.answers.iter().all(|record| record.name.to_ascii() == "cAcHe.service.consul."), "as it was spelt");
    assert_eq!(helped(&reply).len(), 2);
    assert_eq!(data(&asker.ask("v1.cache.service.consul.", RecordType::A).await), ["10.0.0.3"]);
    let reply = asker.ask("eDGE07.Node.consul.", RecordType::A).await;
    assert_eq!(chain(&reply), ["eDGE07.Node.consul. 198.51.100.7"]);
}

/// Each SRV record has the address of its target, and no more than these are there.
fn assert_complete(reply: &Message) {
    let target = |data: &RData| match data {
        RData::SRV(srv) => srv.target.clone(),
        other => panic!("{other} is no SRV record"),
    };
    let targets: BTreeSet<_> = reply.answers.iter().map(|record| target(&record.data)).collect();
    let helped: BTreeSet<_> = reply.additionals.iter().map(|record| record.name.clone()).collect();
    assert_eq!((&targets, reply.additionals.len()), (&helped, helped.len()));
}

#[tokio::test]
async fn cut_answer_has_an_address_for_each_record() {
    let (serve, peer, asker) = house().await;
    for n in 0..40 {
        super::register(&peer, "big", &format!("i{n}"), &format!("10.0.1.{n}"), &[]).await;
        let on = json!({"Service": "nodes", "ID": format!("s{n}"), "Port": n + 1});
        let node = format!("{}-{n}.{}", "n".repeat(60), "m".repeat(60));
        catalog(&serve, json!({"Node": node, "Address": format!("198.51.100.{n}"), "Service": on})).await;
    }
    for (service, per_record) in [("big", 60), ("nodes", 180)] {
        let name = format!("{service}.service.consul.");
        for offered in [None, Some(0), Some(512), Some(600), Some(1_232), Some(4_096)] {
            let query = query(&name, RecordType::SRV);
            let query = offered.map_or(query.clone(), |offered| offering(query, offered));
            let (reply, length) = asker.send(&query).await.unwrap();
            let most = usize::from(offered.unwrap_or(512).max(512));
            assert!(length <= most, "{length} in {most}");
            let fit = reply.answers.len();
            assert!(fit == 40 || fit >= (most - 60) / per_record, "{fit} of {service} in {most}");
            assert_eq!(reply.metadata.truncation, fit < 40);
            assert_complete(&reply);
        }
        let whole = asker.ask_tcp(&query(&name, RecordType::SRV)).await;
        assert!(!whole.metadata.truncation && whole.answers.len() == 40);
        assert_complete(&whole);
    }
}

#[tokio::test]
async fn longest_names_are_answered_within_bounds() {
    let (_serve, peer, asker) = house().await;
    let labels = |last: usize| ["a", "b", "c"].map(|letter| letter.repeat(63)).join(".") + "." + &"d".repeat(last);
    // With ".service.consul." these are the longest names that there are, and with another datacenter too long.
    let long = labels(45);
    let target = labels(61);
    super::register(&peer, &long, "a", &target, &[]).await;
    super::register(&peer, "many", "a", &target, &[]).await;
    for n in 0..9 {
        super::register(&peer, "many", &format!("i{n}"), &format!("{n}{}", &target[1..]), &[]).await;
    }
    for (name, kind, number) in [
        (format!("{long}.service.consul."), RecordType::SRV, 0),
        (format!("{long}.service.consul."), RecordType::CNAME, 0),
        ("many.service.consul.".to_owned(), RecordType::SRV, 1),
        ("many.service.consul.".to_owned(), RecordType::A, 1),
    ] {
        let (reply, length) = asker.send(&query(&name, kind)).await.unwrap();
        assert!(length <= 512, "{length}");
        assert_eq!(reply.answers.len(), number, "{name} {kind}");
        assert_eq!(reply.metadata.truncation, kind != RecordType::A);
        let whole = asker.ask_tcp(&query(&name, kind)).await;
        assert!(!whole.metadata.truncation && !whole.answers.is_empty());
    }
    // All above it is there.
    let mut above = format!("{long}.service.consul.");
    while let Some((_, rest)) = above.split_once('.')
        && !rest.is_empty()
        && rest != "consul."
    {
        denied(&asker.ask(rest, RecordType::A).await, ResponseCode::NoError);
        above = rest.to_owned();
    }
}
