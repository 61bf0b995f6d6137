//! Ten thousand watches and fifty thousand instances, through a kill and a restart.

use std::time::Duration;

use tokio::time::sleep;

use super::client_fleet::{ClientFleet, Size};
use crate::harness::{ServerProcess, get, wall};

/// Twenty watches of each service, a hundred instances in each.
const SIZE: Size =
    Size { services: 500, instances: 50_000, watches: 10_000, connections: 100, ttl: Duration::from_secs(30) };
/// Guaranteed time after the end of settling, in milliseconds.
const ALLOWED: u64 = 10_000;

/// Length of settling: the default, unless the environment says that this machine is slow. All clients run on it too.
fn settle() -> String {
    std::env::var("SETTLE").unwrap_or_else(|_| "10s".to_owned())
}

/// Returns whether the registry still settles, by its metrics.
async fn settles(serve: &ServerProcess) -> bool {
    let (_, metrics) = get(serve.http, "/metrics").await;
    metrics.contains("callboard_settling 1\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute in a release build, and longer in others: `just settle` runs it"]
async fn fifty_thousand_instances_register_again_and_ten_thousand_watches_receive_no_removal() {
    let serve = ServerProcess::start(&[]).await;
    let start = wall();
    let mut fleet = ClientFleet::start(&serve.address(), SIZE).await;
    println!("gathered after {} ms; the registry has {} MiB", wall() - start, serve.resident() / 1024);
    let killed = wall();
    let serve = serve.restart(&["--settle", &settle()]).await;
    let restarted = wall();
    println!("killed and restarted after {} ms", restarted - killed);
    let settled = async {
        while settles(&serve).await {
            sleep(Duration::from_millis(50)).await;
        }
        (wall(), serve.cpu())
    };
    let ((back, synced), (settled, busy_before)) = tokio::join!(fleet.all_in_sync(killed), settled);
    let busy = serve.cpu();
    println!("the last instance was registered {} ms after the restart", back.end - restarted);
    println!("settled {} ms after the restart", settled - restarted);
    println!(
        "the first and the last watch were in sync {:?} ms after the restart",
        [synced.start, synced.end].map(|at| at - restarted)
    );
    println!(
        "the registry was busy for {busy_before:?} until it had settled, and for {:?} from then on",
        busy.saturating_sub(busy_before)
    );
    println!("it has {} MiB", serve.resident() / 1024);
    assert!(back.end < settled, "settling is long enough");
    assert!(synced.end <= settled + ALLOWED);
    // No later expiry removes an instance.
    sleep(SIZE.ttl).await;
    fleet.shut_down().await;
}
