//! A registration that lives as long as its handle.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::transport::Channel;

use super::{
    ClientError, LoadLayer, Servers, StreamConnector,
    load::LoadCounters,
    registration_event::{RegistrationEnd, RegistrationEvent},
    registration_task::{DesiredState, ObservedState, RegistrationTask},
};
use crate::pb::callboard::v1::RegisterRequest;

/// Time that clients have to learn that an instance drains.
const DRAIN_DELAY: Duration = Duration::from_millis(250);

/// Handle of an instance that a background task keeps registered.
///
/// The methods set a desired state. The task reports it as soon as it reaches the registry, and again after the
/// registry has forgotten the instance.
///
/// ```no_run
/// use std::time::Duration;
/// use callboard::client::{Registration, Servers};
/// use callboard::pb::callboard::v1::{Address, RegisterRequest};
///
/// # async fn example() -> Result<(), callboard::client::ClientError> {
/// let registries: Servers = "10.0.0.1:8502,10.0.0.2:8502".parse()?;
/// let request = RegisterRequest {
///     service: "payments".to_owned(),
///     id: "payments-1".to_owned(),
///     addresses: vec![Address { host: "10.0.1.7".to_owned(), port: 50061, name: "grpc".to_owned() }],
///     ..RegisterRequest::default()
/// };
/// let registration = Registration::start(&registries, request, |event| println!("{event:?}"))?;
/// // … serve until the program is to stop …
/// let end = registration.shutdown(Duration::from_secs(30)).await;
/// println!("{end:?}");
/// # Ok(())
/// # }
/// ```
///
/// Dropping the handle deregisters the instance in the background, on the runtime that the registration was started on: the
/// program must keep that runtime for a moment, otherwise the instance expires with its lease. Clients stop calling an
/// instance that has deregistered, as they do when it drains; [`Registration::shutdown`] also waits for the calls in progress.
#[derive(Debug)]
pub struct Registration {
    desired: watch::Sender<DesiredState>,
    observed: watch::Receiver<ObservedState>,
    load: Arc<LoadCounters>,
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
        servers: impl Into<Servers>,
        request: RegisterRequest,
        on_event: impl FnMut(RegistrationEvent) + Send + 'static,
    ) -> Result<Self, ClientError> {
        Self::start_over(servers.into().connector(), request, on_event)
    }

    /// Like [`Registration::start`], on a connection of [`Endpoint::channel`](super::Endpoint::channel) that other clients share. One connection
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
        connector: Box<dyn StreamConnector>,
        mut request: RegisterRequest,
        on_event: impl FnMut(RegistrationEvent) + Send + 'static,
    ) -> Result<Self, ClientError> {
        if request.boot_id.is_empty() {
            boot_id()?.clone_into(&mut request.boot_id);
        }
        let desired = DesiredState { starting: request.starting, draining: false, leave: false };
        let (desired, desired_states) = watch::channel(desired);
        let (observed_states, observed) = watch::channel(ObservedState::default());
        let load = Arc::<LoadCounters>::default();
        let task = RegistrationTask::new(connector, request, Arc::clone(&load), observed_states, Box::new(on_event));
        tokio::spawn(task.run(desired_states));
        Ok(Self { desired, observed, load })
    }

    /// Returns a layer for the tonic server of this instance. From then on, each heartbeat carries a report of the load that
    /// the layer has measured since the last one, by which the registry can weigh the instance.
    ///
    /// ```no_run
    /// # async fn example(registration: callboard::client::Registration) {
    /// let server = tonic::transport::Server::builder().layer(registration.load_layer());
    /// # drop(server);
    /// # }
    /// ```
    #[must_use]
    pub fn load_layer(&self) -> LoadLayer {
        LoadLayer::new(&self.load)
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

    /// Drains the instance, waits until its calls have ended, and deregisters it. Returns the outcome.
    ///
    /// Waits 250 ms for clients to stop calling, then until the layer of [`Registration::load_layer`] counts no call in
    /// progress, if there is one; all this for `grace` at most. Deregistering takes another 2 s at most. Stop the server after
    /// that.
    pub async fn shutdown(self, grace: Duration) -> RegistrationEnd {
        let drained = async {
            self.set_draining(true).await;
            sleep(DRAIN_DELAY).await;
            self.load.idle().await;
        };
        let _timed_out = timeout(grace, drained).await;
        self.deregister().await
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
