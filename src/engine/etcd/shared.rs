//! Engine that several replicas share through etcd.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{RecvError, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime,
    sync::mpsc::{UnboundedSender, unbounded_channel},
};

use super::{
    EtcdDependencies, EtcdEngineError, EtcdSettings,
    replica::{EtcdReplica, ReplicaMessage},
    status::ReplicaStatus,
};
use crate::{
    clock::Clock,
    engine::{
        CheckKey, Engine, EngineError, OutcomeSender, PendingCommand, SavedCheck, SavedChecks,
        write_request::WriteRequest,
    },
    model::{Caller, InstanceId, LeaseId, Revision, ServiceName},
    registry::{ClockReading, Command, CommandOutcome, PolicyCommand, PolicyOutcome, Registry, SessionEpoch},
};

/// Maximum number of requests that wait for etcd; further ones are rejected.
const MAX_WAITING: usize = 32_768;
/// Time after which a rejected caller should try again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Callback for the end of the replica. It is called at most once.
pub type OnReplicaEnd = Box<dyn FnOnce(String) + Send>;

/// Engine that several replicas share through etcd.
pub struct Etcd {
    registry: Arc<Registry>,
    /// `None` once the engine is closed.
    messages: Mutex<Option<UnboundedSender<ReplicaMessage>>>,
    status: Arc<ReplicaStatus>,
    clock: Arc<Clock>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("registry", &self.registry).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Etcd {
    /// Reads the registry from etcd, begins a session, and starts the thread of the replica. Blocks until the registry is complete.
    ///
    /// # Errors
    ///
    /// When etcd does not answer within 30 s or rejects a request, or the operating system cannot start a thread.
    pub fn open(
        settings: EtcdSettings,
        dependencies: EtcdDependencies,
        on_end: OnReplicaEnd,
    ) -> Result<Self, EtcdEngineError> {
        let clock = Arc::clone(&dependencies.clock);
        let status = Arc::<ReplicaStatus>::default();
        let (messages, inbox) = unbounded_channel();
        let (started, start) = channel();
        let thread = thread::Builder::new().name("callboard-etcd".to_owned()).spawn({
            let status = Arc::clone(&status);
            move || {
                let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(started.send(Err(error.into()))),
                };
                runtime.block_on(async {
                    match EtcdReplica::start(settings, dependencies, status).await {
                        Ok(replica) => {
                            // The receiver waits for it.
                            let _ = started.send(Ok(Arc::clone(replica.registry())));
                            if let Err(reason) = replica.run(inbox).await {
                                on_end(reason);
                            }
                        }
                        Err(error) => drop(started.send(Err(error))),
                    }
                });
            }
        })?;
        let registry = start.recv().unwrap_or_else(|RecvError| Err(EtcdEngineError::Panicked))?;
        Ok(Self { registry, messages: Mutex::new(Some(messages)), status, clock, thread: Mutex::new(Some(thread)) })
    }

    /// Sends a reader to the replica, which answers it.
    fn send_reader(&self, message: impl FnOnce(OutcomeSender<()>) -> ReplicaMessage) -> PendingCommand<()> {
        let (sender, pending) = PendingCommand::waiting();
        if let Some(messages) = &*self.messages.lock()
            && messages.send(message(sender)).is_ok()
        {
            return pending;
        }
        PendingCommand::done(Err(EngineError::Stopped))
    }

    fn send(&self, request: WriteRequest) {
        let waiting = self.status.waiting.load(Ordering::Relaxed);
        if waiting >= MAX_WAITING && !request.is_internal() {
            return request.reject(EngineError::Overloaded { waiting, retry: RETRY_DELAY });
        }
        let messages = self.messages.lock();
        let Some(sender) = &*messages else { return request.reject(EngineError::Stopped) };
        self.status.waiting.fetch_add(1, Ordering::Relaxed);
        if let Err(unsent) = sender.send(ReplicaMessage::Write(request))
            && let ReplicaMessage::Write(request) = unsent.0
        {
            self.status.waiting.fetch_sub(1, Ordering::Relaxed);
            request.reject(EngineError::Stopped);
        }
    }
}

impl Engine for Etcd {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The command is decided at the time at which the replica processes it.
    fn submit(&self, command: Command, caller: &Arc<Caller>, _: ClockReading) -> PendingCommand {
        let (request, pending) = WriteRequest::one(command, caller);
        self.send(request);
        pending
    }

    fn submit_together(
        &self,
        commands: Vec<Command>,
        caller: &Arc<Caller>,
        _: ClockReading,
    ) -> PendingCommand<Vec<CommandOutcome>> {
        let (request, pending) = WriteRequest::together(commands, caller);
        self.send(request);
        pending
    }

    fn submit_policy(
        &self,
        command: PolicyCommand,
        caller: &Arc<Caller>,
        _: ClockReading,
    ) -> PendingCommand<PolicyOutcome> {
        let (request, pending) = WriteRequest::policy(command, caller);
        self.send(request);
        pending
    }

    /// Results of checks are not shared: the replica that holds an instance runs its checks.
    fn save_checks(&self, _: Vec<(CheckKey, Option<SavedCheck>)>) {}

    fn take_saved_checks(&self) -> Option<SavedChecks> {
        None
    }

    fn claim(&self, service: &ServiceName, id: &InstanceId, lease: Option<LeaseId>) {
        if let Some(sender) = &*self.messages.lock() {
            // Sending fails if the replica has ended, and then nothing can be claimed.
            let _ = sender.send(ReplicaMessage::Claim(service.clone(), id.clone(), lease));
        }
    }

    fn may_expire(&self) -> bool {
        self.degraded_since().is_none()
    }

    fn degraded_since(&self) -> Option<Duration> {
        let now = self.clock.since_start();
        // Between two ticks of the replica, it may not have noticed yet.
        self.status.frozen_since().or_else(|| (!self.status.is_confirmed(now)).then_some(now))
    }

    fn state_age(&self) -> Duration {
        self.status.watch_age(self.clock.since_start())
    }

    fn synchronize(&self) -> PendingCommand<()> {
        self.send_reader(ReplicaMessage::Synchronize)
    }

    fn reach(&self, revision: Revision) -> PendingCommand<()> {
        self.send_reader(|reader| ReplicaMessage::Reach(revision, reader))
    }

    fn replica_name(&self, session: SessionEpoch) -> Option<Arc<str>> {
        self.status.replica_names.get(session)
    }

    fn close(&self) {
        self.messages.lock().take();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the replica panicked");
        }
    }
}
