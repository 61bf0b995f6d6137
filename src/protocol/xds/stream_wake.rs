//! Events that wake one stream: changes of its services and of policies, and the next step of a policy.

use std::{
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

use super::{
    cluster_name::split_cluster_name,
    session::InterestChange,
    stream_interest::{StreamInterest, WakeChanges},
};
use crate::{
    app::ServerContext,
    model::{Selector, ServiceName, topic_of_policies},
    transport::{ChangedServices, Connection, Interest, WakeRegistration},
};

/// Events that wake one stream.
#[derive(Debug)]
pub(super) struct StreamWake {
    registration: WakeRegistration,
    interest: StreamInterest,
    /// Timer of the next step of a policy, of delayed weights or of a resumption, and the time at which it ends.
    timer: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl StreamWake {
    /// A stream that is woken when policies change.
    pub(super) fn new(context: &ServerContext, connection: &Arc<Connection>) -> Self {
        let mut registration = context.notifier.register_for_names(connection, Interest::Nothing);
        registration.add(&topic_of_policies());
        Self { registration, interest: StreamInterest::default(), timer: None }
    }

    /// Returns whether the stream has to end.
    pub(super) fn must_end(&self) -> bool {
        self.registration.must_end()
    }

    /// Ready when something has changed, with the changed services.
    pub(super) fn poll_changes(&self, context: &Context<'_>) -> Poll<ChangedServices> {
        self.registration.poll_changes(context)
    }

    /// Takes in a change of the subscriptions. Returns the service whose first assignment the client subscribes to now, if there is one.
    pub(super) fn change(&mut self, change: &InterestChange) -> Option<ServiceName> {
        // A name that no service can have never changes.
        let service = |name: &str| ServiceName::parse(split_cluster_name(name).0).ok();
        let mut changes = WakeChanges::default();
        let first = match change {
            InterestChange::Add(name) => {
                let service = service(name)?;
                self.interest.subscribe(&service, &mut changes).then_some(service)
            }
            InterestChange::Remove(name) => {
                let service = service(name)?;
                self.interest.unsubscribe(&service, &mut changes);
                None
            }
            InterestChange::AllServices(true) => {
                self.registration.set_interest(Interest::Changes(Arc::new(Selector::Everything)));
                None
            }
            InterestChange::AllServices(false) => {
                self.registration.set_interest(Interest::Nothing);
                None
            }
        };
        self.apply(&changes);
        first
    }

    /// Sets the services that take the calls of a subscribed service. Returns whether they are others than before.
    pub(super) fn set_fallbacks(&mut self, service: &ServiceName, fallbacks: Vec<ServiceName>) -> bool {
        let mut changes = WakeChanges::default();
        let are_others = self.interest.set_fallbacks(service, fallbacks, &mut changes);
        self.apply(&changes);
        are_others
    }

    /// Services whose endpoints the client subscribes to.
    pub(super) fn interest(&self) -> &StreamInterest {
        &self.interest
    }

    fn apply(&mut self, changes: &WakeChanges) {
        for service in &changes.added {
            self.registration.add(service);
        }
        for service in &changes.removed {
            self.registration.remove(service);
        }
    }

    /// Sets the time at which [`Self::poll_timer`] is ready. Times are since the start of the process. Returns whether there is a time that
    /// was not set before.
    pub(super) fn set_timer(&mut self, at: Option<Duration>, now: Duration) -> bool {
        if at == self.timer.as_ref().map(|(at, _)| *at) {
            return false;
        }
        self.timer = at.map(|at| (at, Box::pin(sleep(at.saturating_sub(now)))));
        self.timer.is_some()
    }

    /// Ready once when the time that was set has come.
    pub(super) fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some((_, timer)) = &mut self.timer else { return Poll::Pending };
        let poll = timer.as_mut().poll(context);
        if poll.is_ready() {
            self.timer = None;
        }
        poll
    }
}
