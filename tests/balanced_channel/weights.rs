//! Weights by response time from end to end: the layer of the servers, their heartbeats, the registry, the channel. The clock is
//! paused, because weights change every 10 s.

use std::time::Duration;

use callboard::client::{BalancedChannel, Discovery, Servers};
use serde_json::json;

use super::{
    backend::{Backend, call},
    connected,
};
use crate::{
    harness::{InMemory, within},
    policy::set,
};

/// Number of calls of a measurement.
const CALLS: u32 = 400;
/// Maximum number of calls until the weights have changed.
const MAX_CALLS: u32 = 100_000;

/// Makes calls, and returns the number that the instance has responded to.
async fn responses_of(channel: &BalancedChannel, id: &str) -> u32 {
    let mut count = 0;
    for _ in 0..CALLS {
        count += u32::from(within("a call", call(channel)).await.unwrap() == id);
    }
    count
}

/// Makes calls until the weight of an instance meets a condition.
async fn call_until(channel: &BalancedChannel, id: &str, condition: impl Fn(f64) -> bool) {
    for _ in 0..MAX_CALLS {
        within("a call", call(channel)).await.unwrap();
        let instances = channel.instances();
        let found = instances.iter().find(|instance| instance.instance.id == id);
        if found.is_some_and(|instance| condition(instance.weight)) {
            return;
        }
    }
    panic!("the weight of {id} does not change: {:?}", channel.instances());
}

#[tokio::test(start_paused = true)]
async fn reported_response_times_move_calls_away_from_the_slow_instance_and_back() {
    let registry = InMemory::open();
    let (address, client) = (registry.listen().await, registry.client().await);
    set(&client, "echo", &json!({ "weights": "response_time" })).await;
    let mut backends = Vec::new();
    for id in ["a", "b", "c", "d"] {
        let backend = Backend::start(&address, id).await;
        backend.set_delay(Duration::from_millis(4));
        backends.push(backend);
    }
    backends[0].set_delay(Duration::from_millis(40));
    let channel = Discovery::new(address.to_string().parse::<Servers>().unwrap()).channel("echo");
    connected(&channel, 4).await;
    assert_eq!(responses_of(&channel, "a").await, CALLS / 4, "the configured weights are equal");

    call_until(&channel, "a", |weight| weight < 0.65).await;
    let share = responses_of(&channel, "a").await;
    assert!(share <= CALLS / 5, "{share} of {CALLS} calls");

    backends[0].set_delay(Duration::from_millis(4));
    call_until(&channel, "a", |weight| weight >= 0.8).await;
    let share = responses_of(&channel, "a").await;
    assert!(share >= CALLS / 5, "{share} of {CALLS} calls");
    let connections: Vec<_> = backends.iter().map(Backend::connections).collect();
    assert_eq!(connections, [1; 4], "a change of weights costs no connection");
}
