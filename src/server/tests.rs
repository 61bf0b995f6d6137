//! Tests of the liveness of the event loops that serve.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream, UdpSocket},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    app::{Commands, Views, Watchers},
    clock::Clock,
    engine::{CheckKey, Engine, Memory, PendingCommand, SavedCheck, SavedChecks},
    model::{Caller, Incarnation, InstanceId, LeaseId, ServiceName},
    registry::{ClockReading, Command, CommandOutcome, PolicyCommand, PolicyOutcome, Registry},
    transport::{ConnectionLimits, Notifier},
};

const DEADLINE: Duration = Duration::from_secs(30);
const SILENT: Duration = Duration::from_millis(800);
const POLL: Duration = Duration::from_millis(5);

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let waiting = async {
        while !reached() {
            sleep(POLL).await;
        }
    };
    timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{what} takes too long"));
}

#[tokio::test]
async fn every_event_loop_that_serves_is_monitored() {
    let config = Config {
        grpc: Some(any_port()),
        http: Some(any_port()),
        health: Some(any_port()),
        dns: Some(any_port()),
        workers: NonZeroUsize::new(2).unwrap(),
        ..Config::default()
    };
    let server = Server::start(&config).unwrap();
    let liveness = server.liveness();
    let names = || {
        let mut names: Vec<_> = liveness.event_loops().into_iter().map(|status| status.name).collect();
        names.sort_unstable();
        names
    };
    let expected = [
        "callboard-0",
        "callboard-1",
        "callboard-checks",
        "callboard-dns",
        "callboard-http",
        "effective weights",
        "lease expiry",
        "the HTTP acceptor",
        "the gRPC acceptor",
        "the health acceptor",
        "zone layouts",
    ];
    until("the first report of each", || names() == expected).await;
    server.shutdown().await;
    assert_eq!(names(), [""; 0]);
}

/// Engine whose registry cannot be read while the test holds the lock.
#[derive(Debug)]
struct BlockingEngine {
    memory: Memory,
    readable: Arc<Mutex<()>>,
}

impl Engine for BlockingEngine {
    fn registry(&self) -> &Registry {
        drop(self.readable.lock());
        Engine::registry(&self.memory)
    }

    fn submit(&self, command: Command, caller: &Arc<Caller>, now: ClockReading) -> PendingCommand {
        Engine::submit(&self.memory, command, caller, now)
    }

    fn submit_together(
        &self,
        commands: Vec<Command>,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> PendingCommand<Vec<CommandOutcome>> {
        Engine::submit_together(&self.memory, commands, caller, now)
    }

    fn submit_policy(
        &self,
        command: PolicyCommand,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> PendingCommand<PolicyOutcome> {
        Engine::submit_policy(&self.memory, command, caller, now)
    }

    fn save_checks(&self, states: Vec<(CheckKey, Option<SavedCheck>)>) {
        Engine::save_checks(&self.memory, states);
    }

    fn take_saved_checks(&self) -> Option<SavedChecks> {
        Engine::take_saved_checks(&self.memory)
    }

    fn claim(&self, _: &ServiceName, _: &InstanceId, _: Option<LeaseId>) {}

    fn may_expire(&self) -> bool {
        true
    }

    fn degraded_since(&self) -> Option<Duration> {
        None
    }

    fn close(&self) {
        Engine::close(&self.memory);
    }
}

fn context(readable: &Arc<Mutex<()>>) -> Arc<ServerContext> {
    let (notifier, clock) = (Arc::new(Notifier::new(1)), Arc::new(Clock::new(0)));
    let memory = Memory::new(Incarnation(7), clock.now(), Arc::<Notifier>::clone(&notifier));
    let engine: Arc<dyn Engine> = Arc::new(BlockingEngine { memory, readable: Arc::clone(readable) });
    let commands = Commands::new(&engine, &clock, None);
    let metrics = Metrics::new();
    Arc::new(ServerContext {
        engine,
        commands,
        notifier,
        clock,
        views: Views::new(&metrics.views),
        metrics,
        watchers: Watchers::default(),
        weights: Arc::default(),
        max_message_size: 256 * 1024,
        bookmarks: DEADLINE,
        replica: "replica-1".to_owned(),
    })
}

/// A question for `a.service.consul`, of type A.
const QUESTION: &[u8] =
    b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07service\x06consul\x00\x00\x01\x00\x01";

/// Waits until the only event loop is silent, or makes progress again. Blocks.
fn wait(clock: &Clock, silent: bool) -> bool {
    let polls = DEADLINE.as_millis() / POLL.as_millis();
    (0..polls).any(|_| {
        std::thread::park_timeout(POLL);
        clock.event_loops().first().is_some_and(|status| (status.silent_for >= SILENT) == silent)
    })
}

#[test]
fn dns_thread_that_a_question_blocks_is_silent() {
    for over_tcp in [false, true] {
        let readable = Arc::new(Mutex::new(()));
        let context = context(&readable);
        let config = Config { dns: Some(any_port()), ..Config::default() };
        let listener = resolver::bind(&config).unwrap().unwrap();
        let address = listener.address();
        let limiter = ConnectionLimiter::new(ConnectionLimits::default(), Arc::clone(&context.metrics));
        let (signals, (fatal, _listener)) = (ShutdownSignals::new(), FatalReporter::new());
        let thread = resolver::start(listener, &config, &context, limiter, (signals.listeners(), fatal)).unwrap();
        assert!(wait(&context.clock, false), "it reports");

        let blocked = readable.lock();
        let _stream = over_tcp.then(|| {
            let length = u16::try_from(QUESTION.len()).unwrap().to_be_bytes();
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&[&length, QUESTION].concat()).unwrap();
            stream
        });
        if !over_tcp {
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(QUESTION, address).unwrap();
        }
        assert!(wait(&context.clock, true), "it is silent while a question blocks it");
        drop(blocked);
        assert!(wait(&context.clock, false), "it reports again");
        signals.close_listeners();
        thread.join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lease_expiry_that_blocks_is_silent() {
    let readable = Arc::new(Mutex::new(()));
    let context = context(&readable);
    let expiring = Arc::clone(&context.clock).monitored("lease expiry", expire_leases(Arc::clone(&context)));
    let expiring = tokio::spawn(expiring);
    tokio::task::block_in_place(|| {
        assert!(wait(&context.clock, false), "it reports");
        let blocked = readable.lock();
        assert!(wait(&context.clock, true), "it is silent while the registry blocks it");
        drop(blocked);
        assert!(wait(&context.clock, false), "it reports again");
    });
    expiring.abort();
}
