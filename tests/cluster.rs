//! Replicas over a cluster of etcd, through faults of both: real processes, clients of all kinds that record what they see, and
//! checkers of the records. Random choices come from a printed seed.
//!
//! | module | contents |
//! |---|---|
//! | `test_cluster` | three members of etcd and three replicas |
//! | `network` | hosts in network namespaces, for partitions |
//! | `shifted_clock` | wall clocks that jump |
//! | `fault` | the faults, each with its beginning and its end |
//! | `quota` | maintenance of etcd |
//! | `workload`, `work` | all clients, which run through the faults, and the phase in which they write |
//! | `heartbeat_client`, `short_lived`, `contender` | instances: one that stays, some that stop heartbeats, boots that compete for an id |
//! | `library` | instances and a watch of the Rust client |
//! | `ticker`, `writer` | changes, and writes whose outcome is checked |
//! | `watcher`, `xds_watcher` | watches and xDS streams that resume at other replicas |
//! | `agreement` | comparison of the replicas with etcd |
//! | `run` | a run through faults, and the checks at its end |
//!
//! `just faults-cluster` runs each fault in a cluster of its own, and a random sequence of them; `just faults-cluster NAME` runs one test.

mod agreement;
mod contender;
mod fault;
mod heartbeat_client;
mod library;
mod network;
mod quota;
mod run;
mod shifted_clock;
mod short_lived;
mod test_cluster;
mod ticker;
mod watcher;
mod work;
mod workload;
mod writer;
mod xds_watcher;

use std::time::Duration;

use crate::{
    faults::wanted,
    harness::{Direction, Random, wall},
};
use fault::Fault;
use run::FaultRun;
use test_cluster::{SIZE, Surroundings};

const PLAIN: Surroundings =
    Surroundings { networks: false, clocks: false, proxies: false, small_disk: None, etcd_arguments: &[] };
/// Longer than the TTL of a session.
const LONGER_THAN_A_SESSION: Duration = Duration::from_secs(12);
/// Default length of the random sequence.
const DEFAULT_LENGTH: Duration = Duration::from_secs(90);

/// Runs faults one after the other.
async fn survives(surroundings: Surroundings, faults: impl IntoIterator<Item = (Fault, Duration)>) {
    let Some(mut run) = Box::pin(FaultRun::start(surroundings)).await else { return };
    for (fault, hold) in faults {
        Box::pin(run.inject(fault, hold)).await;
    }
    Box::pin(run.finish()).await;
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

macro_rules! fault_tests {
    ($($name:ident: $surroundings:expr, $faults:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "needs etcd, and takes up to a minute: just faults-cluster"]
        async fn $name() {
            Box::pin(survives($surroundings, $faults)).await;
        }
    )*};
}

fault_tests! {
    replica_killed: PLAIN, [(Fault::KillReplica(0), seconds(5)), (Fault::KillReplica(1), seconds(0))];
    replica_stopped_for_longer_than_its_session: PLAIN, [(Fault::StopReplica(1), LONGER_THAN_A_SESSION)];
    replica_stopped_over_a_compaction: Surroundings { proxies: true, ..PLAIN }, [(Fault::CompactUnseen(2), seconds(5))];
    leader_killed: PLAIN, [(Fault::KillLeader, seconds(4))];
    follower_killed: PLAIN, [(Fault::KillFollower, seconds(4))];
    two_members_killed: PLAIN, [(Fault::KillTwoMembers, LONGER_THAN_A_SESSION)];
    leader_stopped: PLAIN, [(Fault::StopLeader, LONGER_THAN_A_SESSION)];
    follower_stopped: PLAIN, [(Fault::StopFollower, LONGER_THAN_A_SESSION)];
    replica_cut_off_from_etcd: NETWORKS, [(Fault::CutReplica(0, Direction::Both), seconds(35))];
    replica_cut_off_in_one_direction: NETWORKS,
        [(Fault::CutReplica(1, Direction::Up), LONGER_THAN_A_SESSION), (Fault::CutReplica(2, Direction::Down), LONGER_THAN_A_SESSION)];
    leader_cut_off: NETWORKS, [(Fault::CutLeader(Direction::Both), LONGER_THAN_A_SESSION)];
    leader_cut_off_in_one_direction: NETWORKS,
        [(Fault::CutLeader(Direction::Up), seconds(8)), (Fault::CutLeader(Direction::Down), seconds(8))];
    wall_clock_jumps: Surroundings { clocks: true, ..PLAIN },
        [(Fault::ShiftClock(0, 86_400), seconds(4)), (Fault::ShiftClock(1, -86_400), seconds(4))];
    replies_of_etcd_lost: Surroundings { proxies: true, ..PLAIN }, [(Fault::LoseReplies, seconds(12))];
    quota_reached: Surroundings { etcd_arguments: &["--quota-backend-bytes=16777216"], ..PLAIN },
        [(Fault::ReachQuota, seconds(4))];
    disk_of_a_member_full: Surroundings { small_disk: Some("size=260m"), ..PLAIN }, [(Fault::FillDisk, seconds(2))];
    all_data_lost: PLAIN, [(Fault::Wipe, seconds(0))];
    old_backup_restored: PLAIN, [(Fault::Restore(seconds(4)), seconds(0))];
}

const NETWORKS: Surroundings = Surroundings { networks: true, ..PLAIN };

/// Returns a fault that loses no data, and its duration.
fn any_fault(random: &mut Random) -> (Fault, Duration) {
    let replica = usize::try_from(random.below(SIZE as u64)).unwrap();
    let direction = [Direction::Both, Direction::Up, Direction::Down][usize::try_from(random.below(3)).unwrap()];
    let shift = i64::try_from(random.below(200_000)).unwrap() - 100_000;
    let faults = [
        (Fault::KillReplica(replica), 8),
        (Fault::KillLeader, 6),
        (Fault::KillFollower, 6),
        (Fault::KillTwoMembers, 10),
        (Fault::StopReplica(replica), 14),
        (Fault::StopLeader, 12),
        (Fault::StopFollower, 12),
        (Fault::CutReplica(replica, direction), 14),
        (Fault::CutLeader(direction), 12),
        (Fault::ShiftClock(replica, shift), 4),
    ];
    let (fault, longest) = faults[usize::try_from(random.below(faults.len() as u64)).unwrap()];
    (fault, random.millis(100, 1_000 * longest))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 90 s, or as many minutes as CALLBOARD_TEST_SOAK_MINUTES says: just soak-cluster"]
async fn random_faults() {
    let minutes = wanted("CALLBOARD_TEST_SOAK_MINUTES", 0);
    let lasts = if minutes == 0 { DEFAULT_LENGTH } else { Duration::from_secs(60 * minutes) };
    let Some(mut run) = Box::pin(FaultRun::start(Surroundings { clocks: true, ..NETWORKS })).await else { return };
    let began = wall();
    while Duration::from_millis(wall() - began) < lasts {
        let (fault, hold) = any_fault(&mut run.random);
        Box::pin(run.inject(fault, hold)).await;
        println!("      memory of the replicas in KiB: {:?}", run.cluster.resident());
    }
    Box::pin(run.finish()).await;
}

/// Kills replicas, or leaders of etcd, as many times as the recipe says, and prints the figures of the documentation.
async fn killed_many_times(kills: u64, kill: impl Fn(&mut Random) -> Fault, longest_silence: Duration) {
    let Some(mut run) = Box::pin(FaultRun::start(PLAIN)).await else { return };
    run.calm = Duration::from_millis(500);
    for number in 1..=kills {
        let fault = kill(&mut run.random);
        let hold = run.random.millis(0, 1_000);
        Box::pin(run.inject(fault, hold)).await;
        if number % 10 == 0 {
            println!("{number} of {kills} kills");
        }
    }
    let figures = Box::pin(run.finish()).await;
    assert_eq!(figures.lost_live, 0);
    let silence = Duration::from_millis(figures.longest_silence);
    assert!(silence < longest_silence, "a watcher received nothing for {silence:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "kills 4 times, or as often as CALLBOARD_TEST_KILLS says: just kills-cluster"]
async fn replica_killed_many_times() {
    let kills = wanted("CALLBOARD_TEST_KILLS", 4);
    let any = |random: &mut Random| Fault::KillReplica(usize::try_from(random.below(SIZE as u64)).unwrap());
    Box::pin(killed_many_times(kills, any, seconds(5))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "kills 2 times, or a quarter as often as CALLBOARD_TEST_KILLS says: just kills-cluster"]
async fn leader_killed_many_times() {
    let kills = wanted("CALLBOARD_TEST_KILLS", 8).div_ceil(4);
    Box::pin(killed_many_times(kills, |_| Fault::KillLeader, seconds(10))).await;
}
