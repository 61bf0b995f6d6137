//! A registration that lives as long as its handle.

use std::sync::OnceLock;

use tokio::sync::watch;
use tonic::transport::Channel;

use super::{
    ClientError, Connect, Endpoint,
    registration_event::{RegistrationEnd, RegistrationEvent},
    registration_task::{DesiredState, ObservedState, RegistrationTask},
};
use crate::pb::callboard::v1::RegisterRequest;

/// Handle of an instance that a background task keeps registered.
///
/// The methods set a desired state. The task reports it as soon as it reaches the registry, and again after the
/// registry has forgotten the instance. Dropping the handle deregisters in the background.
#[derive(Debug)]
pub struct Registration {
    desired: watch::Sender<DesiredState>,
    observed: watch::Receiver<ObservedState>,
}

impl Registration {
    /// Starts a task that registers the instance and renews its lease. An empty `boot_id` is replaced by that of this
    /// process. `on_event` is called on the task that sends the heartbeats, so it must not block.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ClientError::Random`] if the operating system provides no random numbers for a boot id.
    pub fn start(
        endpoint: &Endpoint,
        request: RegisterRequest,
        mut on_event: impl FnMut(RegistrationEvent) + Send + 'static,
    ) -> Result<Self, ClientError> {
        let (endpoint, connect_error) = (endpoint.clone(), endpoint.connect_error());
        let explained = move |event| match event {
            RegistrationEvent::Interrupted { error, retry_in } => {
                on_event(RegistrationEvent::Interrupted { error: connect_error.explain(error), retry_in });
            }
            other => on_event(other),
        };
        Self::start_over(Box::new(move || endpoint.channel()), request, explained)
    }

    /// Like [`Registration::start`], on a connection of [`Endpoint::channel`] that other clients share. One connection
    /// carries up to 1,024 streams. A connection that hangs is noticed only by its pings, after 30 s, so the TTL should be
    /// well above that.
    ///
    /// # Errors
    ///
    /// Those of [`Registration::start`].
    pub fn start_on(
        channel: &Channel,
        request: RegisterRequest,
        on_event: impl FnMut(RegistrationEvent) + Send + 'static,
    ) -> Result<Self, ClientError> {
        let channel = channel.clone();
        Self::start_over(Box::new(move || channel.clone()), request, on_event)
    }

    /// Like [`Registration::start`], over connections that the caller opens.
    pub(crate) fn start_over(
        connect: Connect,
        mut request: RegisterRequest,
        on_event: impl FnMut(RegistrationEvent) + Send + 'static,
    ) -> Result<Self, ClientError> {
        if request.boot_id.is_empty() {
            boot_id()?.clone_into(&mut request.boot_id);
        }
        let desired = DesiredState { starting: request.starting, draining: false, leave: false };
        let (desired, desired_states) = watch::channel(desired);
        let (observed_states, observed) = watch::channel(ObservedState::default());
        let task = RegistrationTask::new(connect, request, observed_states, Box::new(on_event));
        tokio::spawn(task.run(desired_states));
        Ok(Self { desired, observed })
    }

    /// Marks the instance as ready: it is no longer listed as STARTING.
    pub fn serving(&self) {
        self.desired.send_modify(|desired| desired.starting = false);
    }

    /// Starts or stops draining, and returns once the registry has confirmed it or the registration has ended. Waits as
    /// long as the registry is unreachable; add a timeout where that matters.
    pub async fn set_draining(&self, draining: bool) {
        self.desired.send_modify(|desired| desired.draining = draining);
        let reached = |observed: &ObservedState| observed.draining == draining || observed.end.is_some();
        let mut observed = self.observed.clone();
        // An error means that the task has stopped, so there is nothing to drain.
        let _stopped = observed.wait_for(reached).await;
    }

    /// Starts to deregister and returns at once. [`Registration::ended`] returns the outcome, after 2 s at most.
    pub fn leave(&self) {
        self.desired.send_modify(|desired| desired.leave = true);
    }

    /// Waits until the registration ends for any reason.
    pub async fn ended(&self) -> RegistrationEnd {
        let mut observed = self.observed.clone();
        let ended = observed.wait_for(|observed| observed.end.is_some()).await;
        let end = ended.ok().and_then(|observed| observed.end.clone());
        end.unwrap_or(RegistrationEnd::Unconfirmed(ClientError::Stopped))
    }

    /// Deregisters, and returns the outcome after 2 s at most.
    pub async fn deregister(self) -> RegistrationEnd {
        self.leave();
        self.ended().await
    }
}

/// Returns the boot id of this process: 128 random bits in hexadecimal, drawn at the first call.
///
/// # Errors
///
/// [`ClientError::Random`] if the operating system provides no random numbers.
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
