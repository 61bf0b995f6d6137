//! Replicas that cannot reach etcd: one alone, whose clients have to go to others, or all of them.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use callboard::{
    client::{Registration, RegistrationEnd, RegistrationEvent, Servers, Watch, WatchEvent},
    pb::callboard::v1::{LeaseState, RegisterRequest, WatchRequest, change::Change},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{interval, sleep, timeout},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::replicas::{replica, since};
use crate::harness::{
    Direction, EtcdCluster, Flow, HeartbeatStream, Proxy, ServerProcess, TestClient, instance, seconds, wall, within,
};

/// Number of instances of each kind.
const INSTANCES: usize = 8;

/// Starts a replica that reaches etcd through a proxy only.
async fn replica_behind_a_proxy(etcd: &EtcdCluster) -> (ServerProcess, Proxy) {
    let member: SocketAddr = etcd.endpoint(0).trim_start_matches("http://").parse().unwrap();
    let proxy = Proxy::before(member).await;
    let endpoint = format!("http://{}", proxy.address());
    (ServerProcess::start(&["--etcd", &endpoint, "--dns", "off"]).await, proxy)
}

fn servers(replicas: &[&ServerProcess]) -> Servers {
    let addresses: Vec<_> = replicas.iter().map(|replica| replica.address()).collect();
    addresses.join(",").parse().unwrap()
}

fn request(id: &str, ttl: f64) -> RegisterRequest {
    RegisterRequest { ttl: seconds(ttl), ..instance("web", id) }
}

/// TTLs of the instances, in seconds: shorter and longer than the time that orphans keep.
fn ttl_of(number: usize) -> f64 {
    [3.0, 6.0, 15.0, 20.0][number % 4]
}

/// A program with the Rust client, and the number of its interruptions.
struct Program {
    _registration: Registration,
    interruptions: Arc<Mutex<Vec<String>>>,
}

async fn program(servers: &Servers, id: &str, ttl: f64) -> Program {
    let interruptions = Arc::<Mutex<Vec<String>>>::default();
    let (registered, registrations) = tokio::sync::watch::channel(false);
    let on_event = {
        let interruptions = Arc::clone(&interruptions);
        move |event| match event {
            RegistrationEvent::Registered { again, .. } => {
                assert!(!again, "the registry had forgotten the lease");
                registered.send_replace(true);
            }
            RegistrationEvent::Interrupted { error, .. } => interruptions.lock().unwrap().push(error.to_string()),
            RegistrationEvent::Ended(end) => {
                // The handle is dropped at the end of the test.
                let is_left = matches!(end, RegistrationEnd::Deregistered { .. } | RegistrationEnd::Unconfirmed(_));
                assert!(is_left, "{end:?}");
            }
            _ => {}
        }
    };
    let registration = Registration::start(servers, request(id, ttl), on_event).unwrap();
    within("a registration", { registrations }.wait_for(|registered| *registered)).await.unwrap();
    Program { _registration: registration, interruptions }
}

/// A program without the Rust client. It opens its stream at the next replica when it ends.
struct RawProgram {
    replicas: Vec<TestClient>,
    /// Index of the present replica.
    at: usize,
    lease: Bytes,
    ttl: f64,
    ends: usize,
}

impl RawProgram {
    async fn register(replicas: &[TestClient], at: usize, id: &str, ttl: f64) -> Self {
        let lease = replicas[at].register(request(id, ttl)).await.unwrap().lease_id;
        Self { replicas: replicas.to_vec(), at, lease, ttl, ends: 0 }
    }

    /// Sends heartbeats for as long as it is polled.
    async fn run(&mut self) {
        loop {
            let ended = self.use_one_stream().await;
            assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
            assert_eq!(ended.get_details_error_info().unwrap().reason, "REPLICA_DEGRADED");
            self.ends += 1;
            self.at = (self.at + 1) % self.replicas.len();
            sleep(ended.get_details_retry_info().unwrap().retry_delay.unwrap()).await;
        }
    }

    async fn use_one_stream(&self) -> Status {
        let mut stream = HeartbeatStream::open(&self.replicas[self.at]).await;
        let mut ticks = interval(Duration::from_secs_f64(self.ttl / 3.0));
        loop {
            ticks.tick().await;
            match stream.beat(&[&self.lease]).await {
                Ok((states, _)) => assert_eq!(states, [LeaseState::Held]),
                Err(status) => return status,
            }
        }
    }
}

/// A watch of the Rust client, and the instances that it knows. It panics if one is removed.
#[derive(Debug)]
struct FollowedWatch {
    known: tokio::sync::watch::Receiver<BTreeSet<String>>,
    disconnections: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl FollowedWatch {
    fn start(servers: &Servers) -> Self {
        let mut watch = Watch::new(servers, WatchRequest { services: vec!["web".into()], ..WatchRequest::default() });
        let (changed, known) = tokio::sync::watch::channel(BTreeSet::new());
        let disconnections = Arc::<Mutex<usize>>::default();
        let counted = Arc::clone(&disconnections);
        let task = tokio::spawn(async move {
            loop {
                match watch.next().await.unwrap() {
                    WatchEvent::Snapshot(instances) => {
                        changed.send_modify(|known| known.extend(instances.into_iter().map(|instance| instance.id)));
                    }
                    WatchEvent::Changes { changes, .. } => changed.send_modify(|known| {
                        for change in changes {
                            match change {
                                Change::Updated(instance) => drop(known.insert(instance.id)),
                                Change::Removed(removed) => panic!("{} was removed", removed.id),
                            }
                        }
                    }),
                    WatchEvent::Reset(cause) => panic!("the watch was reset: {cause:?}"),
                    WatchEvent::Disconnected { .. } => *counted.lock().unwrap() += 1,
                    _ => {}
                }
            }
        });
        Self { known, disconnections, task }
    }

    /// Starts some, and waits until they know all instances.
    async fn start_all(servers: &Servers) -> Vec<Self> {
        let mut watches: Vec<_> = (0..INSTANCES).map(|_| Self::start(servers)).collect();
        for watch in &mut watches {
            watch.knows(2 * INSTANCES).await;
        }
        watches
    }

    /// Waits until the watch knows this number of instances.
    async fn knows(&mut self, count: usize) {
        within("the instances", self.known.wait_for(|known| known.len() == count)).await.unwrap();
    }

    fn assert_alive(&self) {
        assert!(!self.task.is_finished(), "the watch has panicked");
    }
}

impl Drop for FollowedWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reports for a TTL check. A program that does so through a load balancer gets another connection then, and so perhaps another replica.
async fn assert_report_ends_connection(http: SocketAddr) {
    let mut connection = TcpStream::connect(http).await.unwrap();
    let report = b"PUT /v1/agent/check/pass/c HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    connection.write_all(report).await.unwrap();
    let mut answer = String::new();
    within("the end of the connection", connection.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn heartbeating_instances_of_a_replica_that_alone_is_cut_off_are_never_absent() {
    let etcd = EtcdCluster::start(1).await;
    let (one, proxy) = replica_behind_a_proxy(&etcd).await;
    let (two, three) = (replica(&etcd).await, replica(&etcd).await);
    let all = servers(&[&one, &two, &three]);
    let clients = [one.client().await, two.client().await, three.client().await];
    let (mut programs, mut raw) = (Vec::new(), Vec::new());
    for number in 0..INSTANCES {
        programs.push(program(&all, &format!("rust-{number}"), ttl_of(number)).await);
        // These programs know the replica that is cut off and one more, and begin at the one that is cut off.
        let id = format!("raw-{number}");
        raw.push(RawProgram::register(&clients[..2], 0, &id, ttl_of(number)).await);
    }
    let mut healthy = FollowedWatch::start(&servers(&[&two]));
    healthy.knows(2 * INSTANCES).await;
    let mut watches = FollowedWatch::start_all(&all).await;
    let running = raw.into_iter().map(|mut program| {
        tokio::spawn(async move {
            let _running = timeout(Duration::from_secs(70), program.run()).await;
            (program.ends, program.at)
        })
    });
    let running: Vec<_> = running.collect();
    let cut = wall();
    proxy.flow(Direction::Both, Flow::Held);
    // A watch at the cut-off replica learns of later instances, because it goes to another one.
    clients[1].register(request("late", 600.0)).await.unwrap();
    for watch in &mut watches {
        watch.knows(2 * INSTANCES + 1).await;
    }
    assert!(since(cut) < Duration::from_secs(20), "{:?}", since(cut));
    healthy.knows(2 * INSTANCES + 1).await;
    assert_report_ends_connection(one.http).await;
    while since(cut) < Duration::from_secs(45) {
        sleep(Duration::from_millis(500)).await;
        assert_eq!(clients[1].list("web").await.len(), 2 * INSTANCES + 1);
        healthy.assert_alive();
    }
    proxy.calm();
    // The replica lists the same instances as the others again.
    within("agreement", async {
        while clients[0].list("web").await != clients[1].list("web").await {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    for program in running {
        let (ends, at) = program.await.unwrap();
        assert!((1..=2).contains(&ends) && at == ends % 2, "a raw stream ended {ends} times, and is at {at}");
    }
    assert_eq!(clients[1].list("web").await.len(), 2 * INSTANCES + 1);
    for program in &programs {
        let interruptions = program.interruptions.lock().unwrap();
        assert!(interruptions.len() <= 1, "{interruptions:?}");
    }
    let moved = programs.iter().filter(|program| !program.interruptions.lock().unwrap().is_empty()).count();
    assert!(moved > 0, "some of {INSTANCES} programs were at the replica that was cut off");
    watches.iter().chain([&healthy]).for_each(FollowedWatch::assert_alive);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn etcd_that_is_away_for_all_removes_nothing_and_costs_few_reconnections() {
    const OUTAGE: Duration = Duration::from_secs(40);
    let etcd = EtcdCluster::start(1).await;
    let (one, two, three) = (replica(&etcd).await, replica(&etcd).await, replica(&etcd).await);
    let all = servers(&[&one, &two, &three]);
    let clients = [one.client().await, two.client().await, three.client().await];
    let (mut programs, mut raw) = (Vec::new(), Vec::new());
    for number in 0..INSTANCES {
        programs.push(program(&all, &format!("rust-{number}"), ttl_of(number)).await);
        let id = format!("raw-{number}");
        raw.push(RawProgram::register(&clients, number % 3, &id, ttl_of(number)).await);
    }
    let watches = FollowedWatch::start_all(&all).await;
    let running = raw.into_iter().map(|mut program| {
        tokio::spawn(async move {
            let _running = timeout(OUTAGE + Duration::from_secs(30), program.run()).await;
            program.ends
        })
    });
    let running: Vec<_> = running.collect();
    let cpu = || [&one, &two, &three].map(ServerProcess::cpu);
    let (before, began) = (cpu(), wall());
    etcd.pause(0);
    while since(began) < OUTAGE {
        sleep(Duration::from_millis(500)).await;
        for client in &clients {
            assert_eq!(client.list("web").await.len(), 2 * INSTANCES);
        }
    }
    let used: Vec<_> = cpu().into_iter().zip(before).map(|(now, before)| now.saturating_sub(before)).collect();
    etcd.resume(0);
    within("etcd", async { while clients[0].register(request("late", 600.0)).await.is_err() {} }).await;
    // Four periods, and in each of them at most one end at each replica.
    let mut ends = Vec::new();
    for program in running {
        ends.push(program.await.unwrap());
    }
    let interruptions: Vec<_> = programs.iter().map(|program| program.interruptions.lock().unwrap().len()).collect();
    let disconnections: Vec<_> = watches.iter().map(|watch| *watch.disconnections.lock().unwrap()).collect();
    println!(
        "ends of raw streams {ends:?}, of programs {interruptions:?}, of watches {disconnections:?}; CPU {used:?}"
    );
    assert!(ends.iter().chain(&interruptions).chain(&disconnections).all(|count| *count <= 12));
    assert!(used.iter().all(|used| *used < OUTAGE / 10), "{used:?}");
    for client in &clients {
        assert_eq!(client.list("web").await.len(), 2 * INSTANCES + 1);
    }
    watches.iter().for_each(FollowedWatch::assert_alive);
}
