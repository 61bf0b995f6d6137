//! Faults of a cluster, each with its beginning and its end.

use std::{fs, io::Write as _, time::Duration};

use callboard::etcd::{EtcdErrorKind, EtcdOperation, EtcdTransaction};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::{
    network::Network,
    quota,
    test_cluster::{SIZE, TestCluster},
};
use crate::harness::{Direction, Flow, Proxy, Random, Span, wall, within};

/// Maximum time until a member whose disk is full ends: it has space left in files that it made before.
const MAX_FULL_DISK_TIME: Duration = Duration::from_secs(20);
/// Metric: number of times that a replica read its state again.
const RELOADS: &str = "callboard_etcd_reloads_total";
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Size of a value that uses up space.
const FILLER_BYTES: usize = 128 * 1024;
/// Number of such values at most: twice the quota of a test, or the size of its small disk.
const MAX_FILLERS: usize = 400;

/// Fault. A replica is given by its number, a member of etcd by its role at the beginning of the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of a replica.
    KillReplica(usize),
    /// SIGKILL of members of etcd.
    KillLeader,
    KillFollower,
    KillTwoMembers,
    /// SIGSTOP of a replica.
    StopReplica(usize),
    /// SIGSTOP of a member of etcd.
    StopLeader,
    StopFollower,
    /// Packets between a replica and etcd are lost, in both directions or in one.
    CutReplica(usize, Direction),
    /// Packets between the leader and the other members are lost.
    CutLeader(Direction),
    /// A replica is stopped while etcd compacts changes that the replica has not seen.
    CompactUnseen(usize),
    /// The wall clock of a replica jumps by these seconds, and back.
    ShiftClock(usize, i64),
    /// Replies of etcd are lost with their connections.
    LoseReplies,
    /// The database of etcd reaches its quota.
    ReachQuota,
    /// The disk of the last member is full until the member ends.
    FillDisk,
    /// All data of etcd is lost.
    Wipe,
    /// etcd is restored from a backup that was made before this time.
    Restore(Duration),
}

impl Fault {
    /// Returns whether acknowledged changes may be lost.
    pub fn loses_data(self) -> bool {
        matches!(self, Self::Wipe | Self::Restore(_))
    }

    /// Begins the fault, and ends it after `hold`. Returns its time.
    pub async fn inject(self, cluster: &mut TestCluster, random: &mut Random, hold: Duration) -> Span {
        let from = wall();
        match self {
            Self::KillReplica(replica) => {
                cluster.kill_replica(replica).await;
                sleep(hold).await;
                cluster.start_replica(replica).await;
            }
            Self::StopReplica(replica) => {
                cluster.signal_replica(replica, Signal::STOP);
                sleep(hold).await;
                cluster.signal_replica(replica, Signal::CONT);
            }
            Self::KillLeader | Self::KillFollower | Self::KillTwoMembers => {
                let (leader, follower) = cluster.leader_and_follower().await;
                let killed: &[usize] = match self {
                    Self::KillLeader => &[leader],
                    Self::KillFollower => &[follower],
                    _ => &[leader, follower],
                };
                kill_members(cluster, killed, hold).await;
            }
            Self::StopLeader | Self::StopFollower => {
                let (leader, follower) = cluster.leader_and_follower().await;
                let stopped = if self == Self::StopLeader { leader } else { follower };
                cluster.etcd.pause(stopped);
                sleep(hold).await;
                cluster.etcd.resume(stopped);
            }
            Self::CutReplica(replica, direction) => {
                let members: Vec<_> = (0..SIZE).map(TestCluster::member_host).collect();
                cut(cluster, TestCluster::replica_host(replica), &members, direction, hold).await;
            }
            Self::CutLeader(direction) => {
                let (leader, _) = cluster.leader_and_follower().await;
                let others: Vec<_> =
                    (0..SIZE).filter(|member| *member != leader).map(TestCluster::member_host).collect();
                cut(cluster, TestCluster::member_host(leader), &others, direction, hold).await;
            }
            Self::CompactUnseen(replica) => compact_unseen(cluster, replica, hold).await,
            Self::ShiftClock(replica, seconds) => {
                cluster.clocks[replica].shift(seconds);
                sleep(hold).await;
                cluster.clocks[replica].shift(0);
            }
            Self::LoseReplies => lose_replies(cluster, random, hold).await,
            Self::ReachQuota => exceed_quota(cluster, hold).await,
            Self::FillDisk => fill_disk(cluster, hold).await,
            Self::Wipe => cluster.etcd.wipe().await,
            Self::Restore(age) => {
                let backup = cluster.etcd.back_up().await;
                cluster.etcd.start_all().await;
                sleep(age).await;
                cluster.etcd.restore(&backup).await;
            }
        }
        Span { from, to: wall() }
    }
}

async fn exceed_quota(cluster: &mut TestCluster, hold: Duration) {
    let fillers = reach_quota(cluster).await;
    sleep(hold).await;
    clear_quota(cluster, fillers).await;
}

async fn kill_members(cluster: &mut TestCluster, killed: &[usize], hold: Duration) {
    for member in killed {
        cluster.etcd.kill(*member).await;
    }
    sleep(hold).await;
    for member in killed {
        cluster.etcd.begin(*member);
    }
    for member in killed {
        cluster.etcd.ready(*member).await;
    }
}

/// Loses the packets that a host sends to others (up), or that it receives from them (down).
async fn cut(cluster: &TestCluster, host: usize, others: &[usize], direction: Direction, hold: Duration) {
    let network = cluster.network.as_ref().expect("the cluster has a network");
    let each = |change: fn(&Network, usize, usize)| {
        for other in others {
            if direction != Direction::Down {
                change(network, host, *other);
            }
            if direction != Direction::Up {
                change(network, *other, host);
            }
        }
    };
    each(Network::cut);
    sleep(hold).await;
    each(Network::join);
}

async fn compact_unseen(cluster: &TestCluster, replica: usize, hold: Duration) {
    let reloads = cluster.metric(replica, RELOADS).await;
    cluster.signal_replica(replica, Signal::STOP);
    // Without its connections, no change waits for the replica in a socket.
    cluster.proxies.iter().for_each(Proxy::reset);
    sleep(hold).await;
    let client = cluster.etcd.client();
    let newest = client.status().await.unwrap().revision;
    client.compact(newest).await.unwrap();
    cluster.signal_replica(replica, Signal::CONT);
    within("the replica reads its state again", async {
        while cluster.metric(replica, RELOADS).await <= reloads {
            sleep(LOOK_INTERVAL).await;
        }
    })
    .await;
}

async fn lose_replies(cluster: &TestCluster, random: &mut Random, hold: Duration) {
    let end = wall() + u64::try_from(hold.as_millis()).unwrap();
    while wall() < end {
        cluster.proxies.iter().for_each(|proxy| proxy.flow(Direction::Down, Flow::Held));
        sleep(random.millis(20, 300)).await;
        cluster.proxies.iter().for_each(|proxy| {
            proxy.reset();
            proxy.calm();
        });
        sleep(random.millis(200, 1_000)).await;
    }
}

fn filler_key(number: usize) -> String {
    format!("/filler/{number}")
}

/// Writes a value that uses up space. Returns false if etcd has none.
async fn put_filler(cluster: &TestCluster, number: usize) -> bool {
    let operation = EtcdOperation::put(filler_key(number), "x".repeat(FILLER_BYTES));
    let transaction = EtcdTransaction { success: vec![operation], ..EtcdTransaction::default() };
    match cluster.etcd.client().transact(&transaction).await {
        Ok(_) => true,
        Err(error) => error.kind() != EtcdErrorKind::SpaceExceeded,
    }
}

/// Fills the database up to its quota. Returns the number of values.
async fn reach_quota(cluster: &TestCluster) -> usize {
    for number in 0..MAX_FILLERS {
        if !put_filler(cluster, number).await {
            return number + 1;
        }
    }
    panic!("etcd has no quota that {MAX_FILLERS} values of {FILLER_BYTES} bytes reach");
}

/// Does what the documentation says: makes space, and clears the alarm.
async fn clear_quota(cluster: &TestCluster, fillers: usize) {
    let client = cluster.etcd.client();
    for number in 0..fillers {
        let success = vec![EtcdOperation::delete(filler_key(number))];
        client.transact(&EtcdTransaction { success, ..EtcdTransaction::default() }).await.unwrap();
    }
    let newest = client.status().await.unwrap().revision;
    client.compact(newest).await.unwrap();
    for member in 0..SIZE {
        quota::defragment(cluster.etcd.address(member)).await;
    }
    quota::disarm(cluster.etcd.address(0)).await;
}

/// Fills the small disk, writes until its member ends, makes space, and starts the member again.
async fn fill_disk(cluster: &mut TestCluster, hold: Duration) {
    let member = SIZE - 1;
    let path = cluster.small_disk.as_ref().expect("a member has a small disk").path().join("filler");
    let mut file = fs::File::create(&path).unwrap();
    let block = vec![0; 64 * 1024];
    while file.write_all(&block).is_ok() {}
    let mut number = 0;
    let end = wall() + u64::try_from(MAX_FULL_DISK_TIME.as_millis()).unwrap();
    loop {
        if timeout(Duration::from_millis(1), cluster.etcd.end_of(member)).await.is_ok() {
            break;
        }
        assert!(wall() < end && number < MAX_FILLERS, "the member with the full disk still runs");
        put_filler(cluster, number).await;
        number += 1;
    }
    sleep(hold).await;
    // An open file keeps its space.
    drop(file);
    fs::remove_file(&path).unwrap();
    cluster.etcd.restart(member).await;
}
