//! A server without sockets, threads and time.

use std::{
    cell::Cell,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};

use crate::{
    app::Commands,
    clock::Clock,
    engine::{Engine, Memory},
    health_check::{Checks, Rules as CheckRules},
    metrics::Metrics,
    model::{Incarnation, Metadata},
    protocol::consul::{Agent, Consul},
    protocol::grpc::{Api, Shared, Subscribers},
    protocol::http::Web,
    registry::{Audience, Command, Holder},
    transport::{Alarm, Connection, Gate, Hubs, Place, Port, Protocol, Rules, Worker, Workers},
};

thread_local! {
    static WORLD: Cell<Option<World>> = const { Cell::new(None) };
}

/// What the doors stand on.
pub(super) struct World {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    pub(super) grpc: Port,
    pub(super) http: Port,
}

impl World {
    /// Does something where nothing is registered yet, and looks whether all is well afterwards. What reflection serves takes
    /// milliseconds to make, so the next input meets the same world, emptied: what is left are revisions that have risen.
    pub(super) fn visit(act: impl FnOnce(&Self)) {
        // Whoever panics does not put it back.
        let world = WORLD.take().unwrap_or_else(Self::new);
        act(&world);
        world.is_sound();
        world.clear();
        WORLD.set(Some(world));
    }

    fn new() -> Self {
        let (hubs, clock) = (Arc::new(Hubs::new(1)), Arc::new(Clock::new(0)));
        let engine: Arc<dyn Engine> =
            Arc::new(Memory::new(Incarnation(7), clock.now(), Arc::clone(&hubs) as Arc<dyn Audience>));
        let commands = Commands::new(&engine, &clock, None);
        let shared = Arc::new(Shared {
            checks: Checks::new(&commands, &clock, Arc::default(), CheckRules::default(), Default::default()),
            engine,
            commands,
            hubs: Arc::clone(&hubs),
            clock: Arc::clone(&clock),
            metrics: Metrics::new(),
            subscribers: Subscribers::default(),
            max_message_size: 256 * 1024,
            bookmarks: Duration::ZERO,
        });
        let routes = Api::routes(&shared).unwrap_or_else(|error| panic!("{error}"));
        let (_, left) = watch::channel(false);
        let worker = Worker { hubs, clock, bookmarks: shared.bookmarks, leaving: left, alarm: Alarm::new().0 };
        let workers = Workers::start(0, &worker).unwrap_or_else(|error| panic!("{error}"));
        let agent = Agent {
            datacenter: "dc1".into(),
            node: "n1".into(),
            id: Agent::made_up_id(Incarnation(7), "n1"),
            address: [127, 0, 0, 1].into(),
            meta: Metadata::default(),
        };
        let consul = Consul::new(&shared, agent, 16).unwrap_or_else(|error| panic!("{error}"));
        let web = Web::new(Arc::clone(&shared), Arc::new(workers), consul);
        Self {
            gate: Gate::new(Rules { streams_per_connection: 16, ..Rules::default() }, Arc::clone(&shared.metrics)),
            grpc: Port { name: "grpc", protocol: Protocol::Http2, tls: None, routes },
            http: Port { name: "http", protocol: Protocol::Http1, tls: None, routes: web.routes().into() },
            shared,
        }
    }

    /// A peer's connection to a port.
    pub(super) fn connection(&self, port: &Port) -> Arc<Connection> {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let ticket = self.gate.admit(peer, port.name, port.protocol);
        Connection::new(
            peer,
            &Place::new(0, &Arc::new(Clock::new(0))),
            ticket.unwrap_or_else(|refused| panic!("{refused:?}")),
        )
    }

    /// Whatever was asked of it: it counts right, every instance is where it says it is, and nobody watches any more.
    fn is_sound(&self) {
        let registry = self.shared.engine.registry();
        let (summaries, more) = registry.services("", "", usize::MAX);
        assert!(more.is_none());
        let mut instances = 0;
        for summary in &summaries {
            let listed = registry.page(&summary.name, "", usize::MAX);
            assert_eq!(listed.len(), summary.instances);
            assert!(!listed.is_empty(), "a service without instances is dropped");
            assert!(listed.is_sorted_by(|one, other| one.instance.id < other.instance.id));
            assert!(listed.iter().all(|entry| entry.instance.service == summary.name));
            instances += listed.len();
        }
        assert_eq!(instances, registry.instance_count());
        assert_eq!(summaries.len(), registry.service_count());
        assert_eq!((self.shared.hubs.seat_count(), self.shared.subscribers.len()), (0, 0), "a stream left its seat");
    }

    fn clear(&self) {
        let engine = &self.shared.engine;
        for summary in engine.registry().services("", "", usize::MAX).0 {
            for entry in engine.registry().page(&summary.name, "", usize::MAX) {
                let (service, id) = (summary.name.clone(), entry.instance.id.clone());
                let goodbye = Command::Deregister { service, id, of: Holder::Anyone };
                let done = poll(pin!(engine.order(goodbye, self.shared.clock.now())));
                assert!(matches!(done, Poll::Ready(Ok(outcome)) if outcome.changed));
            }
        }
        assert_eq!(engine.registry().instance_count(), 0);
    }
}

/// One thread without IO, whose clock moves on when all wait.
pub(super) fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap_or_else(|error| panic!("{error}"))
}

/// Polls until it is ready, or waits for something that will not come.
pub(super) fn poll<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    // What wakes itself to let others go first gets its turn.
    (0..64).map(|_| future.as_mut().poll(&mut context)).find(Poll::is_ready).unwrap_or(Poll::Pending)
}
