//! The task behind a registration: registers, renews the lease, and reports the desired state.

use std::{convert::Infallible, sync::Arc, time::Duration};

use prost_types::FieldMask;
use tokio::{sync::watch, time::timeout};
use tonic::{Response, Status, transport::Channel};

use super::{
    Backoff, ClientError, StreamConnector,
    heartbeat::{HeartbeatSender, HeldLease},
    load::LoadCounters,
    registration_event::{RegistrationEnd, RegistrationEvent},
};
use crate::pb::callboard::v1::{
    DeregisterRequest, KeepAliveResponse, LeaseReport, LeaseState, Notice, RegisterRequest, UpdateInstanceRequest,
    registry_service_client::RegistryServiceClient,
};

/// Timeout of Register.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of Deregister, at all replicas together.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of replicas that are asked to deregister the instance. Each has its part of the timeout.
const MAX_DEREGISTER_ATTEMPTS: usize = 2;
/// TTL of a response that names none: the server's default.
const DEFAULT_TTL: Duration = Duration::from_secs(15);

type Client = RegistryServiceClient<Channel>;

/// State that the handle asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct DesiredState {
    pub(super) starting: bool,
    pub(super) draining: bool,
    pub(super) leave: bool,
}

/// State that the registry has confirmed.
#[derive(Debug, Clone, Default)]
pub(super) struct ObservedState {
    pub(super) draining: bool,
    pub(super) end: Option<RegistrationEnd>,
}

/// Reason for giving up a connection.
enum DisconnectCause {
    /// The connection failed; another may succeed.
    Lost(ClientError),
    /// The registration has ended.
    Over(RegistrationEnd),
}

impl From<ClientError> for DisconnectCause {
    fn from(error: ClientError) -> Self {
        if error.is_permanent() { Self::Over(RegistrationEnd::Rejected(error)) } else { Self::Lost(error) }
    }
}

/// State last reported to the registry under the current lease.
#[derive(Debug, Default, Clone, Copy)]
struct ReportedState {
    starting: bool,
    draining: bool,
}

/// Task that owns a registration.
pub(super) struct RegistrationTask {
    connector: Box<dyn StreamConnector>,
    client: Option<Client>,
    request: RegisterRequest,
    load: Arc<LoadCounters>,
    lease: Option<HeldLease>,
    reported: ReportedState,
    /// True once a lease was granted.
    was_registered: bool,
    interrupted: bool,
    backoff: Backoff,
    observed: watch::Sender<ObservedState>,
    on_event: Box<dyn FnMut(RegistrationEvent) + Send>,
}

impl RegistrationTask {
    pub(super) fn new(
        connector: Box<dyn StreamConnector>,
        request: RegisterRequest,
        load: Arc<LoadCounters>,
        observed: watch::Sender<ObservedState>,
        on_event: Box<dyn FnMut(RegistrationEvent) + Send>,
    ) -> Self {
        Self {
            connector,
            client: None,
            request,
            load,
            lease: None,
            reported: ReportedState::default(),
            was_registered: false,
            interrupted: false,
            backoff: Backoff::new(),
            observed,
            on_event,
        }
    }

    /// Runs until the handle leaves or is dropped, or the registry ends the registration.
    pub(super) async fn run(mut self, desired: watch::Receiver<DesiredState>) {
        let mut leaving = desired.clone();
        let end = tokio::select! {
            biased;
            _ = leaving.wait_for(|desired| desired.leave) => None,
            end = self.stay_registered(desired) => Some(end),
        };
        let end = match end {
            Some(end) => end,
            None => self.deregister().await,
        };
        (self.on_event)(RegistrationEvent::Ended(end.clone()));
        self.observed.send_modify(|observed| observed.end = Some(end));
    }

    /// Runs one connection after another until the registration ends.
    async fn stay_registered(&mut self, mut desired: watch::Receiver<DesiredState>) -> RegistrationEnd {
        loop {
            let lost = match self.session(&mut desired).await {
                Err(DisconnectCause::Over(end)) => return end,
                Err(DisconnectCause::Lost(error)) => error,
                Ok(never) => match never {},
            };
            let server = self.connector.server();
            let lost = self.connector.failed(lost);
            // With a lease, the delay is at most one heartbeat interval, so that the lease does not expire meanwhile.
            let longest = self.lease.as_ref().map_or(Backoff::MAX_DELAY, HeldLease::interval);
            let retry_in = self.backoff.delay(lost.retry_after()).min(longest);
            self.interrupted = true;
            (self.on_event)(RegistrationEvent::Interrupted { error: lost, retry_in, server });
            tokio::time::sleep(retry_in).await;
        }
    }

    /// Runs one connection. A task that has a lease sends a heartbeat before it registers again, because the registry may
    /// still hold the lease.
    async fn session(&mut self, desired: &mut watch::Receiver<DesiredState>) -> Result<Infallible, DisconnectCause> {
        let mut client = Client::new(self.connector.channel());
        self.client = Some(client.clone());
        let mut confirmed = self.lease.is_none();
        let lease = if let Some(lease) = self.lease.clone() {
            lease
        } else {
            let starting = desired.borrow_and_update().starting;
            self.register(&mut client, starting, REGISTER_TIMEOUT).await?
        };
        let response_timeout = lease.response_timeout();
        let mut heartbeats = HeartbeatSender::open(&mut client, lease, Arc::clone(&self.load)).await?;
        loop {
            if confirmed {
                let state = *desired.borrow_and_update();
                self.report(&mut client, state, response_timeout).await?;
                self.lease.iter().for_each(|lease| heartbeats.adopt(lease));
            }
            tokio::select! {
                response = heartbeats.next() => match self.receive(&response?)? {
                    Some(LeaseState::Held) => confirmed = true,
                    Some(LeaseState::Unknown) => {
                        self.lease = None;
                        let starting = desired.borrow_and_update().starting;
                        self.register(&mut client, starting, REGISTER_TIMEOUT).await?;
                        confirmed = true;
                    }
                    _ => {}
                },
                Ok(()) = desired.changed() => {}
            }
        }
    }

    /// Handles a response. Returns the state of the lease, if the response names it.
    fn receive(&mut self, response: &KeepAliveResponse) -> Result<Option<LeaseState>, DisconnectCause> {
        let held = self.lease.as_ref().map(|lease| lease.id.clone());
        let report = response.leases.iter().find(|report| Some(&report.lease_id) == held.as_ref());
        let state = report.map(LeaseReport::state);
        match state {
            Some(LeaseState::Superseded) => return Err(DisconnectCause::Over(RegistrationEnd::Superseded)),
            Some(LeaseState::Removed) => return Err(DisconnectCause::Over(RegistrationEnd::Removed)),
            Some(LeaseState::Held) => {
                self.backoff.reset();
                if std::mem::take(&mut self.interrupted) {
                    let left = report.and_then(|report| report.time_left);
                    let time_left = left.and_then(|left| left.try_into().ok()).unwrap_or_default();
                    (self.on_event)(RegistrationEvent::Resumed { time_left, server: self.connector.server() });
                }
            }
            Some(LeaseState::Unknown | LeaseState::Unspecified) | None => {}
        }
        match response.notice() {
            Notice::Reconnect => Err(DisconnectCause::Lost(ClientError::GoingAway)),
            Notice::Degraded => {
                (self.on_event)(RegistrationEvent::Degraded);
                Ok(state)
            }
            // Only watches receive the notice that the registry settles.
            Notice::Unspecified | Notice::Settling => Ok(state),
        }
    }

    async fn register(
        &mut self,
        client: &mut Client,
        starting: bool,
        response_timeout: Duration,
    ) -> Result<HeldLease, DisconnectCause> {
        self.request.starting = starting;
        let response = within(response_timeout, client.register(self.request.clone())).await?;
        let ttl = response.ttl.and_then(|ttl| ttl.try_into().ok()).unwrap_or(DEFAULT_TTL);
        let lease = HeldLease { id: response.lease_id, ttl };
        self.reported.starting = starting;
        // Only the first registration may take over the id: after a long interruption it must not replace a live successor.
        self.request.replace = false;
        self.backoff.reset();
        self.interrupted = false;
        let revision = response.revision;
        if self.lease.as_ref() == Some(&lease) {
            self.emit_update(revision);
        } else {
            self.set_reported_draining(false);
            (self.on_event)(RegistrationEvent::Registered {
                lease_id: lease.id.clone(),
                ttl,
                revision,
                again: std::mem::replace(&mut self.was_registered, true),
                server: self.connector.server(),
            });
        }
        self.lease = Some(lease.clone());
        Ok(lease)
    }

    /// Reports to the registry what differs between the desired and the reported state.
    async fn report(
        &mut self,
        client: &mut Client,
        desired: DesiredState,
        response_timeout: Duration,
    ) -> Result<(), DisconnectCause> {
        let Some(lease) = self.lease.clone() else {
            return Ok(());
        };
        if desired.starting != self.reported.starting {
            self.register(client, desired.starting, response_timeout).await?;
        }
        if desired.draining != self.reported.draining {
            let request = UpdateInstanceRequest {
                service: self.request.service.clone(),
                id: self.request.id.clone(),
                lease_id: lease.id,
                update_mask: Some(FieldMask { paths: vec!["draining".to_owned()] }),
                draining: desired.draining,
                ..UpdateInstanceRequest::default()
            };
            let response = within(response_timeout, client.update_instance(request)).await?;
            let revision = response.instance.map(|instance| instance.revision).unwrap_or_default();
            self.set_reported_draining(desired.draining);
            self.emit_update(revision);
        }
        Ok(())
    }

    fn emit_update(&mut self, revision: u64) {
        let ReportedState { starting, draining } = self.reported;
        (self.on_event)(RegistrationEvent::Updated { revision, starting, draining });
    }

    fn set_reported_draining(&mut self, draining: bool) {
        self.reported.draining = draining;
        self.observed.send_modify(|observed| observed.draining = draining);
    }

    /// Deregisters: by lease id, or by boot id if there is no lease, because a response to Register may have been lost. Both
    /// name this registration only, so the request may be repeated at another replica.
    async fn deregister(&mut self) -> RegistrationEnd {
        let Some(mut client) = self.client.take() else {
            return RegistrationEnd::Deregistered { removed: false };
        };
        if self.interrupted {
            // The connection has failed; the connector may be at another replica by now.
            client = Client::new(self.connector.channel());
        }
        let lease = self.lease.take().map(|lease| lease.id);
        let request = DeregisterRequest {
            service: self.request.service.clone(),
            id: self.request.id.clone(),
            boot_id: lease.as_ref().map_or_else(|| self.request.boot_id.clone(), |_| String::new()),
            lease_id: lease.unwrap_or_default(),
        };
        let mut attempts = self.connector.server_count().clamp(1, MAX_DEREGISTER_ATTEMPTS);
        let attempt_timeout = DEREGISTER_TIMEOUT / u32::try_from(attempts).unwrap_or(1);
        loop {
            let error = match within(attempt_timeout, client.deregister(request.clone())).await {
                Ok(response) => return RegistrationEnd::Deregistered { removed: response.removed },
                Err(error) => self.connector.failed(error),
            };
            attempts -= 1;
            if attempts == 0 || error.is_permanent() {
                return RegistrationEnd::Unconfirmed(error);
            }
            client = Client::new(self.connector.channel());
        }
    }
}

/// Waits for a response until the timeout.
async fn within<T>(
    response_timeout: Duration,
    response: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, ClientError> {
    let response = timeout(response_timeout, response).await.map_err(|_| ClientError::Timeout(response_timeout))?;
    Ok(response?.into_inner())
}
