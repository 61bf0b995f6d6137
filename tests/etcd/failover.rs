//! Members that are killed, and networks that lose answers.

use std::time::Duration;

use callboard::etcd::{
    EtcdClient, EtcdCompare, EtcdError, EtcdErrorKind, EtcdOperation, EtcdOptions, EtcdRange, EtcdTransaction,
};

use super::{entries, put};
use crate::harness::{Direction, EtcdCluster, Flow, Proxy, free_port, within};

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn unreachable_member_costs_no_request() {
    let cluster = EtcdCluster::start(1).await;
    let dead = format!("http://127.0.0.1:{}", free_port());
    let endpoints = [dead.clone(), cluster.endpoint(0).to_owned()];
    let client = EtcdClient::new(EtcdOptions::new(endpoints)).unwrap();
    for number in 0..50 {
        put(&client, "k", &number.to_string()).await;
        assert_eq!(client.current_endpoint(), cluster.endpoint(0), "the client stays with the member that works");
    }
    let alone = EtcdClient::new(EtcdOptions::new([&dead])).unwrap();
    let error = alone.range(EtcdRange::key("k")).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::Unreachable, true), "{error}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("etcd at {dead}: cannot be reached: connection refused")), "{text}");
    assert!(text.contains("; check that this member runs"), "{text}");
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn transaction_whose_answer_is_lost_is_executed_once_and_outcome_is_unknown() {
    let cluster = EtcdCluster::start(1).await;
    let proxy = Proxy::before(cluster.address(0)).await;
    let endpoints = [format!("http://{}", proxy.address()), cluster.endpoint(0).to_owned()];
    let client = EtcdClient::new(EtcdOptions::new(endpoints)).unwrap();
    let direct = cluster.client();
    put(&client, "k", "1").await;

    proxy.flow(Direction::Down, Flow::Held);
    let write = |value: &'static str| EtcdTransaction {
        success: vec![EtcdOperation::put("k", value)],
        ..EtcdTransaction::default()
    };
    let before = direct.range(EtcdRange::key("k")).await.unwrap().revision;
    let error = client.transact(&write("2")).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::TimedOut, false), "{error}");
    let after = direct.range(EtcdRange::key("k")).await.unwrap();
    assert_eq!((&*after.entries[0].value, after.revision), (&b"2"[..], before + 1), "executed, and once");

    proxy.calm();
    proxy.refuse(true);
    let client = EtcdClient::new(EtcdOptions::new(client.endpoints())).unwrap();
    client.transact(&write("3")).await.unwrap();
    assert_eq!(client.current_endpoint(), cluster.endpoint(0), "a refused connection has sent nothing");
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn connection_that_breaks_during_a_transaction_leaves_its_outcome_unknown() {
    let cluster = EtcdCluster::start(1).await;
    let proxy = Proxy::before(cluster.address(0)).await;
    let client = EtcdClient::new(EtcdOptions::new([format!("http://{}", proxy.address())])).unwrap();
    let direct = cluster.client();
    put(&client, "k", "1").await;
    let mut watch = direct.watch("k", 1).await.unwrap();
    super::next_batch(&mut watch).await;
    proxy.flow(Direction::Down, Flow::Held);
    let write = EtcdTransaction { success: vec![EtcdOperation::put("k", "2")], ..EtcdTransaction::default() };
    let breaking = async {
        // Executed, and its answer is under way.
        super::next_batch(&mut watch).await;
        proxy.reset();
    };
    let (result, ()) = tokio::join!(client.transact(&write), breaking);
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::Disconnected, false), "{error}");
    proxy.calm();
    assert_eq!(entries(&client, "k").await["k"], "2", "the client connects again");
}

/// Counter in etcd that one client increments.
struct Counter {
    client: EtcdClient,
    value: u64,
    mod_revision: u64,
    unknown: u64,
    unsent: u64,
}

impl Counter {
    async fn increment(&mut self) {
        let next = self.value + 1;
        let transaction = EtcdTransaction {
            compares: vec![EtcdCompare::mod_revision("counter", self.mod_revision)],
            success: vec![EtcdOperation::put("counter", next.to_string())],
            failure: vec![],
        };
        match self.client.transact(&transaction).await {
            Ok(result) => {
                assert!(result.succeeded, "there is one writer, and what it has seen is the newest");
                (self.value, self.mod_revision) = (next, result.revision);
            }
            Err(error) => self.failed(&error).await,
        }
    }

    /// Reads whether the increment was executed, and checks what the error says of it.
    async fn failed(&mut self, error: &EtcdError) {
        let read = within("a read", async {
            loop {
                if let Ok(read) = self.client.range(EtcdRange::key("counter")).await {
                    return read.entries.into_iter().next();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let (value, mod_revision) = read
            .await
            .map_or((0, 0), |entry| (String::from_utf8(entry.value).unwrap().parse().unwrap(), entry.mod_revision));
        if error.is_unsent() {
            self.unsent += 1;
            assert_eq!((value, mod_revision), (self.value, self.mod_revision), "executed, in spite of: {error}");
        } else {
            self.unknown += 1;
            assert!(value == self.value || value == self.value + 1, "{value} after {}: {error}", self.value);
        }
        (self.value, self.mod_revision) = (value, mod_revision);
    }
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn kills_of_leaders_neither_lose_nor_repeat_a_transaction() {
    let mut cluster = EtcdCluster::start(3).await;
    let client = cluster.client();
    let mut counter = Counter { client: client.clone(), value: 0, mod_revision: 0, unknown: 0, unsent: 0 };
    let mut watch = client.watch("counter", 1).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        for _ in 0..50 {
            counter.increment().await;
        }
        let leader = cluster.leader().await;
        let before = counter.value;
        // The leader is killed while an increment is in progress.
        let ((), ()) = tokio::join!(counter.increment(), cluster.kill(leader));
        within("an increment without the leader", async {
            while counter.value < before + 20 {
                counter.increment().await;
            }
        })
        .await;
        cluster.restart(leader).await;
    }
    println!("{} increments, {} unknown, {} unsent", counter.value, counter.unknown, counter.unsent);
    let history = within("all increments on watches", async {
        while seen.last() != Some(&counter.mod_revision) {
            match watch.next().await {
                Ok(callboard::etcd::EtcdWatchEvent::Batch(batch)) => {
                    let [callboard::etcd::EtcdChange::Put(entry)] = &*batch.changes else { panic!("{batch:?}") };
                    assert_eq!(entry.value, (seen.len() + 1).to_string().as_bytes(), "each value once, in order");
                    seen.push(batch.revision);
                }
                Ok(callboard::etcd::EtcdWatchEvent::Progress { .. }) => {}
                Err(error) => {
                    assert!(error.concerns_member(), "{error}");
                    let next = seen.last().map_or(1, |last| last + 1);
                    watch = client.watch("counter", next).await.unwrap();
                }
            }
        }
        seen.len()
    });
    assert_eq!(u64::try_from(history.await).unwrap(), counter.value);
}
