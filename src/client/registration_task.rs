//! The task behind a registration: registers, keeps the lease, and brings about what the handle asks for.

use std::{convert::Infallible, time::Duration};

use prost_types::FieldMask;
use tokio::{sync::watch, time::timeout};
use tonic::{Response, Status, transport::Channel};

use super::{
    Backoff, ClientError, Connect,
    heartbeat::{HeartbeatSender, HeldLease},
    registration::{DesiredState, ObservedState, RegistrationEnd, RegistrationEvent},
};
use crate::pb::callboard::v1::{
    DeregisterRequest, KeepAliveResponse, LeaseReport, LeaseState, Notice, RegisterRequest, UpdateInstanceRequest,
    registry_service_client::RegistryServiceClient,
};

/// How long Register may take.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Stands for a time to live that the server did not name; its own default.
const DEFAULT_TTL: Duration = Duration::from_secs(15);

type Client = RegistryServiceClient<Channel>;

/// Why a connection is given up.
enum DisconnectCause {
    /// Another one may do better.
    Lost(ClientError),
    /// No other will.
    Over(RegistrationEnd),
}

impl From<ClientError> for DisconnectCause {
    fn from(error: ClientError) -> Self {
        if error.is_final() { Self::Over(RegistrationEnd::Refused(error)) } else { Self::Lost(error) }
    }
}

/// What the registry was last told, in the life of the present lease.
#[derive(Debug, Default, Clone, Copy)]
struct ReportedState {
    starting: bool,
    draining: bool,
}

/// Owns a registration.
pub(super) struct RegistrationTask {
    connect: Connect,
    client: Option<Client>,
    request: RegisterRequest,
    lease: Option<HeldLease>,
    told: ReportedState,
    /// There was a lease before.
    known: bool,
    interrupted: bool,
    backoff: Backoff,
    standing: watch::Sender<ObservedState>,
    on_event: Box<dyn FnMut(RegistrationEvent) + Send>,
}

impl RegistrationTask {
    pub(super) fn new(
        connect: Connect,
        request: RegisterRequest,
        standing: watch::Sender<ObservedState>,
        on_event: Box<dyn FnMut(RegistrationEvent) + Send>,
    ) -> Self {
        Self {
            connect,
            client: None,
            request,
            lease: None,
            told: ReportedState::default(),
            known: false,
            interrupted: false,
            backoff: Backoff::new(),
            standing,
            on_event,
        }
    }

    /// Until the handle leaves or is dropped, or the registry ends it.
    pub(super) async fn keep(mut self, wishes: watch::Receiver<DesiredState>) {
        let mut leaving = wishes.clone();
        let departure = tokio::select! {
            biased;
            _ = leaving.wait_for(|wish| wish.leave) => None,
            departure = self.live(wishes) => Some(departure),
        };
        let departure = match departure {
            Some(departure) => departure,
            None => self.say_goodbye().await,
        };
        (self.on_event)(RegistrationEvent::Ended(departure.clone()));
        self.standing.send_modify(|standing| standing.departure = Some(departure));
    }

    /// One connection after another.
    async fn live(&mut self, mut wishes: watch::Receiver<DesiredState>) -> RegistrationEnd {
        loop {
            let lost = match self.session(&mut wishes).await {
                Err(DisconnectCause::Over(departure)) => return departure,
                Err(DisconnectCause::Lost(error)) => error,
                Ok(never) => match never {},
            };
            // Whoever has a lease to lose does not wait longer than it lasts.
            let longest = self.lease.as_ref().map_or(Backoff::LONGEST, HeldLease::interval);
            let retry_in = self.backoff.delay(lost.retry_after()).min(longest);
            self.interrupted = true;
            (self.on_event)(RegistrationEvent::Interrupted { error: lost, retry_in });
            tokio::time::sleep(retry_in).await;
        }
    }

    /// One connection's life. With a lease in hand the heartbeat goes first, for the registry may still hold it.
    async fn session(&mut self, wishes: &mut watch::Receiver<DesiredState>) -> Result<Infallible, DisconnectCause> {
        let mut client = Client::new((self.connect)());
        self.client = Some(client.clone());
        let mut confirmed = self.lease.is_none();
        let lease = if let Some(lease) = self.lease.clone() {
            lease
        } else {
            let starting = wishes.borrow_and_update().starting;
            self.register(&mut client, starting, REGISTER_TIMEOUT).await?
        };
        let patience = lease.patience();
        let mut heartbeats = HeartbeatSender::open(&mut client, lease).await?;
        loop {
            if confirmed {
                let wish = *wishes.borrow_and_update();
                self.bring_about(&mut client, wish, patience).await?;
                self.lease.iter().for_each(|lease| heartbeats.adopt(lease));
            }
            tokio::select! {
                answer = heartbeats.next() => match self.hear(&answer?)? {
                    Some(LeaseState::Held) => confirmed = true,
                    Some(LeaseState::Unknown) => {
                        self.lease = None;
                        let starting = wishes.borrow_and_update().starting;
                        self.register(&mut client, starting, REGISTER_TIMEOUT).await?;
                        confirmed = true;
                    }
                    _ => {}
                },
                Ok(()) = wishes.changed() => {}
            }
        }
    }

    /// What became of the lease, if the answer is about it and leaves something to do.
    fn hear(&mut self, answer: &KeepAliveResponse) -> Result<Option<LeaseState>, DisconnectCause> {
        let held = self.lease.as_ref().map(|lease| lease.id.clone());
        let report = answer.leases.iter().find(|report| Some(&report.lease_id) == held.as_ref());
        let state = report.map(LeaseReport::state);
        match state {
            Some(LeaseState::Superseded) => return Err(DisconnectCause::Over(RegistrationEnd::Superseded)),
            Some(LeaseState::Removed) => return Err(DisconnectCause::Over(RegistrationEnd::Removed)),
            Some(LeaseState::Held) => {
                self.backoff.reset();
                if std::mem::take(&mut self.interrupted) {
                    let left = report.and_then(|report| report.time_left);
                    let time_left = left.and_then(|left| left.try_into().ok()).unwrap_or_default();
                    (self.on_event)(RegistrationEvent::Resumed { time_left });
                }
            }
            Some(LeaseState::Unknown | LeaseState::Unspecified) | None => {}
        }
        match answer.notice() {
            Notice::Reconnect => Err(DisconnectCause::Lost(ClientError::GoingAway)),
            Notice::Degraded => {
                (self.on_event)(RegistrationEvent::Degraded);
                Ok(state)
            }
            // Settling is said to watches.
            Notice::Unspecified | Notice::Settling => Ok(state),
        }
    }

    async fn register(
        &mut self,
        client: &mut Client,
        starting: bool,
        patience: Duration,
    ) -> Result<HeldLease, DisconnectCause> {
        self.request.starting = starting;
        let answer = within(patience, client.register(self.request.clone())).await?;
        let ttl = answer.ttl.and_then(|ttl| ttl.try_into().ok()).unwrap_or(DEFAULT_TTL);
        let lease = HeldLease { id: answer.lease_id, ttl };
        self.told.starting = starting;
        // Taking the id over is for the first time only: who comes back late must not oust a living successor.
        self.request.replace = false;
        self.backoff.reset();
        self.interrupted = false;
        let revision = answer.revision;
        if self.lease.as_ref() == Some(&lease) {
            self.tell_update(revision);
        } else {
            self.set_told_draining(false);
            (self.on_event)(RegistrationEvent::Registered {
                lease_id: lease.id.clone(),
                ttl,
                revision,
                again: std::mem::replace(&mut self.known, true),
            });
        }
        self.lease = Some(lease.clone());
        Ok(lease)
    }

    /// Tells the registry what it has not been told yet.
    async fn bring_about(
        &mut self,
        client: &mut Client,
        wish: DesiredState,
        patience: Duration,
    ) -> Result<(), DisconnectCause> {
        let Some(lease) = self.lease.clone() else {
            return Ok(());
        };
        if wish.starting != self.told.starting {
            self.register(client, wish.starting, patience).await?;
        }
        if wish.draining != self.told.draining {
            let request = UpdateInstanceRequest {
                service: self.request.service.clone(),
                id: self.request.id.clone(),
                lease_id: lease.id,
                update_mask: Some(FieldMask { paths: vec!["draining".to_owned()] }),
                draining: wish.draining,
                ..UpdateInstanceRequest::default()
            };
            let answer = within(patience, client.update_instance(request)).await?;
            let revision = answer.instance.map(|instance| instance.revision).unwrap_or_default();
            self.set_told_draining(wish.draining);
            self.tell_update(revision);
        }
        Ok(())
    }

    fn tell_update(&mut self, revision: u64) {
        let ReportedState { starting, draining } = self.told;
        (self.on_event)(RegistrationEvent::Updated { revision, starting, draining });
    }

    fn set_told_draining(&mut self, draining: bool) {
        self.told.draining = draining;
        self.standing.send_modify(|standing| standing.draining = draining);
    }

    /// Says goodbye once, under the lease, or under the boot where an answer to Register may have been missed.
    async fn say_goodbye(&mut self) -> RegistrationEnd {
        let Some(mut client) = self.client.take() else {
            return RegistrationEnd::Deregistered { removed: false };
        };
        let lease = self.lease.take().map(|lease| lease.id);
        let request = DeregisterRequest {
            service: self.request.service.clone(),
            id: self.request.id.clone(),
            boot_id: lease.as_ref().map_or_else(|| self.request.boot_id.clone(), |_| String::new()),
            lease_id: lease.unwrap_or_default(),
        };
        match within(GOODBYE_TIMEOUT, client.deregister(request)).await {
            Ok(answer) => RegistrationEnd::Deregistered { removed: answer.removed },
            Err(error) => RegistrationEnd::Unanswered(error),
        }
    }
}

async fn within<T>(
    patience: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, ClientError> {
    let answer = timeout(patience, answer).await.map_err(|_| ClientError::Silent(patience))?;
    Ok(answer?.into_inner())
}
