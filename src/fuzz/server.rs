//! Server without sockets, threads and time.

use std::{
    cell::Cell,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{Commands, ServerContext, Views, Watchers},
    clock::Clock,
    engine::{Engine, Memory},
    health_check::{HealthChecks, ProbePolicy as CheckRules},
    metrics::Metrics,
    model::{Incarnation, Metadata, ServerActor},
    protocol::consul::{AgentIdentity, Consul},
    protocol::http::{AllowedHosts, HttpPages},
    protocol::{grpc::GrpcApi, xds::XdsApi},
    registry::{ChangeListener, Command, DeregisterGuard},
    transport::{
        Connection, ConnectionLimiter, ConnectionLimits, FatalReporter, ListenerConfig, Notifier, Protocol,
        WorkerConfig, WorkerState, Workers,
    },
};

thread_local! {
    static SERVER: Cell<Option<FuzzServer>> = const { Cell::new(None) };
}

/// Server that the targets share.
pub(super) struct FuzzServer {
    context: Arc<ServerContext>,
    limiter: Arc<ConnectionLimiter>,
    pub(super) grpc: ListenerConfig,
    pub(super) http: ListenerConfig,
}

impl FuzzServer {
    /// Calls a function with a server without registrations, and verifies the state afterwards. Reflection takes milliseconds to
    /// build, so the next input gets the same server with all instances removed and higher revisions.
    pub(super) fn with(act: impl FnOnce(&Self)) {
        // After a panic, the server is not used again.
        let server = SERVER.take().unwrap_or_else(Self::new);
        act(&server);
        server.assert_consistent();
        server.clear();
        SERVER.set(Some(server));
    }

    fn new() -> Self {
        let (notifier, clock) = (Arc::new(Notifier::new(1)), Arc::new(Clock::new(0)));
        let engine: Arc<dyn Engine> =
            Arc::new(Memory::new(Incarnation(7), clock.now(), Arc::clone(&notifier) as Arc<dyn ChangeListener>));
        let commands = Commands::new(&engine, &clock, None);
        let metrics = Metrics::new();
        let checks = HealthChecks::new(&commands, &clock, Arc::default(), CheckRules::default(), Default::default());
        let context = Arc::new(ServerContext {
            engine,
            commands,
            notifier: Arc::clone(&notifier),
            clock: Arc::clone(&clock),
            views: Views::new(&metrics.views),
            metrics,
            watchers: Watchers::default(),
            weights: Arc::default(),
            max_message_size: 256 * 1024,
            bookmarks: Duration::ZERO,
            replica: "replica-1".to_owned(),
        });
        let routes = GrpcApi::routes(&context, &checks, XdsApi::new(&context).routes())
            .unwrap_or_else(|error| panic!("{error}"));
        // The thread of the worker ends at once.
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let worker = WorkerConfig {
            notifier,
            clock,
            bookmark_interval: context.bookmarks,
            shutdown,
            fatal: FatalReporter::new().0,
        };
        let workers = Workers::start(0, &worker).unwrap_or_else(|error| panic!("{error}"));
        let agent = AgentIdentity {
            datacenter: "dc1".into(),
            node: "n1".into(),
            id: AgentIdentity::derived_id(Incarnation(7), "n1"),
            address: [127, 0, 0, 1].into(),
            meta: Metadata::default(),
        };
        let consul = Consul::new(&context, &checks, agent, 16).unwrap_or_else(|error| panic!("{error}"));
        let web = HttpPages::new(Arc::clone(&context), Arc::new(workers), consul);
        Self {
            limiter: ConnectionLimiter::new(
                ConnectionLimits { streams_per_connection: 16, ..ConnectionLimits::default() },
                Arc::clone(&context.metrics),
            ),
            grpc: ListenerConfig { name: "grpc", protocol: Protocol::Http2, tls: None, routes },
            http: ListenerConfig {
                name: "http",
                protocol: Protocol::Http1,
                tls: None,
                routes: web.routes(AllowedHosts::Any).into(),
            },
            context,
        }
    }

    /// Opens a connection to a listener.
    pub(super) fn connection(&self, port: &ListenerConfig) -> Arc<Connection> {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let permit = self.limiter.admit(peer, port.name, port.protocol);
        Connection::new(
            peer,
            &WorkerState::new(0, &Arc::new(Clock::new(0))),
            permit.unwrap_or_else(|refused| panic!("{refused:?}")),
        )
    }

    /// Asserts that all counts are right, every instance is in its service, and no watcher is left.
    fn assert_consistent(&self) {
        let registry = self.context.engine.registry();
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
        assert_eq!(
            (self.context.notifier.registration_count(), self.context.watchers.is_empty()),
            (0, true),
            "every stream has ended"
        );
    }

    fn clear(&self) {
        let engine = &self.context.engine;
        for summary in engine.registry().services("", "", usize::MAX).0 {
            for entry in engine.registry().page(&summary.name, "", usize::MAX) {
                let (service, id) = (summary.name.clone(), entry.instance.id.clone());
                let removal = Command::Deregister { service, id, guard: DeregisterGuard::Any };
                let done =
                    poll(pin!(engine.submit(removal, ServerActor::InProcess.caller(), self.context.clock.now())));
                assert!(matches!(done, Poll::Ready(Ok(outcome)) if outcome.changed));
            }
        }
        assert_eq!(engine.registry().instance_count(), 0);
    }
}

/// Runtime of one thread without IO, whose clock advances when all tasks wait.
pub(super) fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap_or_else(|error| panic!("{error}"))
}

/// Polls a future until it is ready or waits for an external event.
pub(super) fn poll<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    // A future that yields is ready after some more polls.
    (0..64).map(|_| future.as_mut().poll(&mut context)).find(Poll::is_ready).unwrap_or(Poll::Pending)
}
