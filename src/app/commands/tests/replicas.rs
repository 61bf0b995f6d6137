//! Tests with several replicas, which share a registry and each have a write path.

use std::task::{Context, Waker};

use super::*;
use crate::{engine::test_replicas::TestReplica, registry::ChangeListener};

/// Returns two replicas and their write paths, with the node `n` and five services on it.
async fn replicas() -> (Vec<TestReplica>, Vec<Commands>) {
    let listeners = (0..2).map(|_| Arc::new(NoListener) as Arc<dyn ChangeListener>);
    let engines = TestReplica::all(listeners, at(0));
    let commands = |engine: &TestReplica| commands_for(&(Arc::new(engine.clone()) as Arc<dyn Engine>));
    let commands: Vec<_> = engines.iter().map(commands).collect();
    register_node_with_services(&commands[0]).await;
    (engines, commands)
}

/// Returns a function that marks the node `n` as draining or not at one replica, and propagates it from there.
fn drain_at(commands: &Commands, draining: bool) -> impl FnOnce() + Send + 'static {
    let commands = commands.clone();
    move || {
        let write = pin!(in_process(&commands).submit(drain("n", draining)));
        let done = write.poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(done, Poll::Ready(Ok(outcome)) if outcome.changed));
    }
}

#[tokio::test]
async fn node_that_another_replica_changes_while_its_state_is_propagated_determines_its_instances() {
    let (engines, commands) = replicas().await;
    let (engine, other) = (engines[0].clone(), commands[1].clone());
    // The first refresh is decided when the node drains, and applied when it does not drain any more.
    engines[0].interrupt(move || engine.interrupt(drain_at(&other, false)));
    in_process(&commands[0]).submit(drain("n", true)).await.unwrap();
    assert!(all_have_node_state(&commands[0]) && all_have_node_state(&commands[1]));
    assert!(conditions_and_hosts(&commands[1]).iter().all(|(conditions, _)| !conditions.node_drained));
}

#[tokio::test]
async fn instance_registered_while_another_replica_changes_its_node_gets_the_new_state() {
    let (engines, commands) = replicas().await;
    engines[0].interrupt(drain_at(&commands[1], true));
    in_process(&commands[0]).register(vec![on_node("n", "sixth")], ()).await.unwrap();
    let conditions = conditions_and_hosts(&commands[1]);
    assert!(conditions.len() == 6 && conditions.iter().all(|(conditions, _)| conditions.node_drained));
}

#[tokio::test]
async fn recovery_while_another_replica_changes_a_node_leaves_instances_with_its_state() {
    let (engines, commands) = replicas().await;
    // A replica that ends after its first command leaves instances that differ.
    let first = Engine::submit(&engines[0], drain("n", true), ServerActor::InProcess.caller(), at(0));
    first.await.unwrap();
    assert!(!all_have_node_state(&commands[1]));
    engines[1].interrupt(drain_at(&commands[0], false));
    commands[1].recover().unwrap();
    assert!(all_have_node_state(&commands[1]));
    let revision = commands[1].registry().applied();
    commands[1].recover().unwrap();
    assert_eq!(commands[1].registry().applied(), revision, "nothing is written when nothing differs");
}
