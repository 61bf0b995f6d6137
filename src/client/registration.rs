//! A registration that keeps itself alive for as long as its handle lives.

use std::{sync::OnceLock, time::Duration};

use bytes::Bytes;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::{ClientError, Connect, Endpoint, registration_task::RegistrationTask};
use crate::pb::callboard::v1::RegisterRequest;

/// What happened to a registration, in order. [`RegistrationEvent::Ended`] comes last, and always.
#[derive(Debug, Clone)]
pub enum RegistrationEvent {
    /// The registry holds the instance under a lease that it did not have before.
    Registered {
        /// 16 random bytes.
        lease_id: Bytes,
        /// The time to live that was granted.
        ttl: Duration,
        /// The revision of the instance's last change.
        revision: u64,
        /// The registry had forgotten an earlier registration of ours, by a restart or because it ran out.
        again: bool,
    },
    /// The registry took a change under the lease that it knew.
    Updated {
        /// The revision of the instance's last change.
        revision: u64,
        /// It is listed as not ready yet.
        starting: bool,
        /// It is listed as one that wants no new calls.
        draining: bool,
    },
    /// The registry cannot be reached, or does not take the registration for now: another boot may hold the id.
    Interrupted {
        /// Why.
        error: ClientError,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// After an interruption, the registry still held the lease.
    Resumed {
        /// What was left of it, as renewed.
        time_left: Duration,
    },
    /// The registry answers, but cannot reach its store; the lease is kept.
    Degraded,
    /// It is over.
    Ended(RegistrationEnd),
}

/// How a registration ended.
#[derive(Debug, Clone)]
pub enum RegistrationEnd {
    /// Deregistered, as asked.
    Deregistered {
        /// Whether there was something to remove.
        removed: bool,
    },
    /// Asked to deregister, but the registry did not answer: the instance goes when its time to live is over.
    Unanswered(ClientError),
    /// Another boot took the id over.
    Superseded,
    /// An operator removed the instance.
    Removed,
    /// The registry refuses the registration, and trying again is in vain.
    Refused(ClientError),
}

/// What the holder of a handle wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct DesiredState {
    pub(super) starting: bool,
    pub(super) draining: bool,
    pub(super) leave: bool,
}

/// What has come of it.
#[derive(Debug, Clone, Default)]
pub(super) struct ObservedState {
    pub(super) draining: bool,
    pub(super) departure: Option<RegistrationEnd>,
}

/// An instance that is kept registered by a task of its own.
///
/// Wishes are levels, not commands: whatever was asked last is brought about as soon as the registry can be reached, and
/// again where it has forgotten. Dropping the handle deregisters in the background.
#[derive(Debug)]
pub struct Registration {
    wish: watch::Sender<DesiredState>,
    standing: watch::Receiver<ObservedState>,
}

impl Registration {
    /// Registers in the background and keeps the lease. An empty `boot_id` becomes that of this process. `on_event` is
    /// called on the task that sends the heartbeats: it must not block.
    ///
    /// Call it within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ClientError::Random`] where the system has no random numbers to make a boot id of.
    pub fn start(
        endpoint: &Endpoint,
        request: RegisterRequest,
        mut on_event: impl FnMut(RegistrationEvent) + Send + 'static,
    ) -> Result<Self, ClientError> {
        let (endpoint, trouble) = (endpoint.clone(), endpoint.trouble());
        let explained = move |event| match event {
            RegistrationEvent::Interrupted { error, retry_in } => {
                on_event(RegistrationEvent::Interrupted { error: trouble.explain(error), retry_in });
            }
            other => on_event(other),
        };
        Self::start_over(Box::new(move || endpoint.channel()), request, explained)
    }

    /// The same on a connection that others share, as [`Endpoint::channel`] makes them: one connection carries up to 1,024
    /// streams. One that hangs is noticed by its pings only, after 30 s: ask for a time to live well above that.
    ///
    /// # Errors
    ///
    /// As [`Registration::start`].
    pub fn start_on(
        channel: &Channel,
        request: RegisterRequest,
        on_event: impl FnMut(RegistrationEvent) + Send + 'static,
    ) -> Result<Self, ClientError> {
        let channel = channel.clone();
        Self::start_over(Box::new(move || channel.clone()), request, on_event)
    }

    /// The same over connections of the caller's making.
    pub(crate) fn start_over(
        connect: Connect,
        mut request: RegisterRequest,
        on_event: impl FnMut(RegistrationEvent) + Send + 'static,
    ) -> Result<Self, ClientError> {
        if request.boot_id.is_empty() {
            boot_id()?.clone_into(&mut request.boot_id);
        }
        let wish = DesiredState { starting: request.starting, draining: false, leave: false };
        let (wish, wishes) = watch::channel(wish);
        let (standings, standing) = watch::channel(ObservedState::default());
        let keeper = RegistrationTask::new(connect, request, standings, Box::new(on_event));
        tokio::spawn(keeper.keep(wishes));
        Ok(Self { wish, standing })
    }

    /// The instance is ready: no longer listed as STARTING.
    pub fn serving(&self) {
        self.wish.send_modify(|wish| wish.starting = false);
    }

    /// Asks for no new calls (or for calls again), and returns once the registry knows or the registration has ended.
    /// It may take as long as the registry is away: bound it where that matters.
    pub async fn set_draining(&self, draining: bool) {
        self.wish.send_modify(|wish| wish.draining = draining);
        let reached = |standing: &ObservedState| standing.draining == draining || standing.departure.is_some();
        let mut standing = self.standing.clone();
        // An error means that the task has gone, and with it whatever there was to drain.
        let _gone = standing.wait_for(reached).await;
    }

    /// Asks to deregister and returns at once; [`Registration::ended`] tells what came of it, after 2 s at most.
    pub fn leave(&self) {
        self.wish.send_modify(|wish| wish.leave = true);
    }

    /// Waits for the end, whoever brings it about.
    pub async fn ended(&self) -> RegistrationEnd {
        let mut standing = self.standing.clone();
        let ended = standing.wait_for(|standing| standing.departure.is_some()).await;
        let departure = ended.ok().and_then(|standing| standing.departure.clone());
        departure.unwrap_or(RegistrationEnd::Unanswered(ClientError::Stopped))
    }

    /// Deregisters, and tells what came of it after 2 s at most.
    pub async fn deregister(self) -> RegistrationEnd {
        self.leave();
        self.ended().await
    }
}

/// The boot id of this process: 128 random bits in hexadecimal, drawn at first use.
///
/// # Errors
///
/// [`ClientError::Random`] where the system has no random numbers.
pub fn boot_id() -> Result<&'static str, ClientError> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return Ok(boot);
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| ClientError::Random(error.to_string()))?;
    Ok(BOOT.get_or_init(|| format!("{:032x}", u128::from_be_bytes(random))))
}

#[cfg(test)]
#[cfg(feature = "server")]
mod tests;
