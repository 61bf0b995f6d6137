//! A watch that resumes from its last token after an interruption.

use std::{collections::VecDeque, fmt, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::{Streaming, transport::Channel};

use super::{Backoff, ClientError, Servers, StreamConnector, degraded_servers::DegradedServers};
use crate::pb::callboard::v1::{
    Balancing, Bookmark, Change, EffectiveWeight, Instance, Notice, ResetReason, WatchRequest, WatchResponse, change,
    discovery_service_client::DiscoveryServiceClient, watch_response::Message,
};

/// Timeout of the attempt to open a stream. A replica that hangs accepts connections all the same. The timeout is shorter than the
/// time that a channel's first call waits, so that the next replica is asked within that time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);

/// Event of a watch.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// The instances known so far can no longer be brought up to date. Keep using them until [`WatchEvent::Synced`], then
    /// replace them by the snapshots received in between.
    Reset(ResetCause),
    /// Part of the snapshot that the next [`WatchEvent::Synced`] completes.
    Snapshot(Vec<Instance>),
    /// The snapshot is complete, or a resumed stream needs none.
    Synced {
        /// Revision of the instances known now.
        revision: u64,
    },
    /// All changes up to a revision, to be applied together.
    Changes {
        /// Changes, at most one for each instance.
        changes: Vec<change::Change>,
        /// Revision of the instances known now.
        revision: u64,
    },
    /// No watched instance changed up to a revision.
    Bookmark {
        /// Revision of the instances known now.
        revision: u64,
    },
    /// Weights and policy by which calls to a service are to be balanced. They replace the earlier ones of the service. A
    /// watch of a prefix or of everything forgets those of all services at each [`WatchEvent::Synced`].
    Balancing(Balancing),
    /// The registry answers, but cannot reach its store: there may be changes that it does not know. Sent again from time to time while
    /// that lasts; then a [`WatchEvent::Bookmark`] follows.
    Degraded {
        /// Revision of the instances known now.
        revision: u64,
        /// Time since the registry last had all changes for certain.
        age: Duration,
    },
    /// The registry lost registrations in a restart and waits for the instances to register again. Keep using the instances
    /// known so far; a [`WatchEvent::Reset`] follows.
    Settling,
    /// The stream broke, or could not be opened. The instances known so far may be out of date.
    Disconnected {
        /// Address of the replica. `None` on a connection that the program opened.
        server: Option<String>,
        /// Error of the stream.
        error: ClientError,
        /// Delay until the next attempt.
        retry_in: Duration,
    },
    /// The stream is open again after a disconnection, perhaps at another replica.
    Reconnected {
        /// Address of the replica. `None` on a connection that the program opened.
        server: Option<String>,
    },
}

/// Reason for which a watch starts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetCause {
    /// The registry has started a new incarnation.
    OtherIncarnation,
    /// The token was made for another selector or filter.
    OtherSelector,
    /// The events since the token's revision are no longer in the event log.
    Compacted,
    /// The token's revision is newer than the registry's.
    FutureRevision,
    /// The stream broke within a snapshot, so the parts received are discarded. This reason comes from the client, not from
    /// the registry.
    Interrupted,
    /// A reason that this client does not know.
    Unspecified,
}

impl From<ResetReason> for ResetCause {
    fn from(reason: ResetReason) -> Self {
        match reason {
            ResetReason::OtherIncarnation => Self::OtherIncarnation,
            ResetReason::OtherSelector => Self::OtherSelector,
            ResetReason::Compacted => Self::Compacted,
            ResetReason::FutureRevision => Self::FutureRevision,
            ResetReason::Unspecified => Self::Unspecified,
        }
    }
}

/// Watch of services. It makes progress while [`Watch::next`] is awaited.
pub struct Watch {
    connector: Box<dyn StreamConnector>,
    request: WatchRequest,
    reader: WatchReader,
    stream: Option<Streaming<WatchResponse>>,
    ready: VecDeque<WatchEvent>,
    retry_at: Option<Instant>,
    backoff: Backoff,
    degraded: DegradedServers,
}

impl Watch {
    /// Returns a watch of what the request selects. It resumes from the token in the request, if there is one. The first
    /// [`Watch::next`] opens the stream.
    #[must_use]
    pub fn new(servers: impl Into<Servers>, request: WatchRequest) -> Self {
        Self::over(servers.into().connector(), request)
    }

    /// Like [`Watch::new`], on a connection of [`Endpoint::channel`](super::Endpoint::channel) that other clients share. One connection carries up to
    /// 1,024 streams. A connection that hangs is noticed only by its pings, after 30 s.
    #[must_use]
    pub fn on(channel: &Channel, request: WatchRequest) -> Self {
        let channel = channel.clone();
        Self::over(Box::new(move || channel.clone()), request)
    }

    /// Like [`Watch::new`], over connections that the caller opens.
    pub(crate) fn over(connector: Box<dyn StreamConnector>, mut request: WatchRequest) -> Self {
        let token = std::mem::take(&mut request.resume_token);
        Self {
            connector,
            request,
            reader: WatchReader { token, ..WatchReader::default() },
            stream: None,
            ready: VecDeque::new(),
            retry_at: None,
            backoff: Backoff::new(),
            degraded: DegradedServers::default(),
        }
    }

    /// Returns the token from which another [`Watch`] of the same selector can resume. It is empty before the first
    /// [`WatchEvent::Synced`]. Between a reset and the next `Synced` it is the token of the instances still in use.
    #[must_use]
    pub fn token(&self) -> &Bytes {
        self.reader.token()
    }

    /// Waits for the next event. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Only permanent errors: the selector or the filter is invalid, or access is denied. A further call asks the next replica.
    pub async fn next(&mut self) -> Result<WatchEvent, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if let Err(error) = self.advance().await {
                let server = self.connector.server();
                let error = self.connector.failed(error);
                if error.is_permanent() {
                    self.stream = None;
                    return Err(error);
                }
                let retry_in = self.backoff.delay(error.retry_after());
                self.stream = None;
                self.retry_at = Some(super::now() + retry_in);
                return Ok(WatchEvent::Disconnected { server, error, retry_in });
            }
        }
    }

    /// Receives one message, or opens the stream.
    async fn advance(&mut self) -> Result<(), ClientError> {
        let Some(stream) = &mut self.stream else {
            return self.open().await;
        };
        let message = match self.degraded.leave_at() {
            Some(at) => timeout_at(at, stream.message()).await.map_err(|_| ClientError::Degraded)?,
            None => stream.message().await,
        };
        let message = message?.ok_or(ClientError::StreamEnded)?;
        self.backoff.reset();
        match &message.message {
            Some(Message::Notice(notice)) if *notice == Notice::Reconnect as i32 => return Err(ClientError::GoingAway),
            Some(Message::Notice(notice))
                if *notice == Notice::Degraded as i32 && self.connector.server_count() > 1 =>
            {
                self.degraded.notified(super::now());
            }
            _ => {}
        }
        if self.reader.resumed_after_reset(&message) {
            // The program has received a reset, so it needs a snapshot. Only a stream without a token begins with one.
            self.reader.token = Bytes::new();
            self.stream = None;
            return Ok(());
        }
        self.ready.extend(self.reader.read(message));
        Ok(())
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        if let Some(at) = self.retry_at {
            sleep_until(at).await;
        }
        let mut client: DiscoveryServiceClient<Channel> = DiscoveryServiceClient::new(self.connector.channel());
        // A stream that resumes does not go back, and must not wait for a store that is out of reach.
        let consistent = self.request.consistent && self.reader.token.is_empty();
        let request = WatchRequest { resume_token: self.reader.token.clone(), consistent, ..self.request.clone() };
        let opened = timeout(OPEN_TIMEOUT, client.watch(request)).await;
        self.stream = Some(opened.map_err(|_| ClientError::Timeout(OPEN_TIMEOUT))??.into_inner());
        self.degraded.stream_opened();
        if self.retry_at.take().is_some() {
            self.ready.push_back(WatchEvent::Reconnected { server: self.connector.server() });
        }
        self.ready.extend(self.reader.stream_opened());
        Ok(())
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("request", &self.request)
            .field("reader", &self.reader)
            .field("open", &self.stream.is_some())
            .finish_non_exhaustive()
    }
}

/// Converts the messages of a stream to events and keeps the resume token.
#[derive(Debug, Default)]
pub(crate) struct WatchReader {
    token: Bytes,
    /// Changes of a revision whose last message has not arrived yet.
    pending: Vec<change::Change>,
    /// Weights of a service whose last message has not arrived yet.
    pending_weights: Vec<EffectiveWeight>,
    /// True while a snapshot is incomplete.
    partial_snapshot: bool,
    /// True between a reset and the next complete snapshot, while the program uses the instances of the token.
    outdated: bool,
    /// True if this stream begins with a snapshot.
    expects_snapshot: bool,
}

impl WatchReader {
    /// Returns the token from which the next stream resumes.
    pub(crate) fn token(&self) -> &Bytes {
        &self.token
    }

    /// Discards what the previous stream left incomplete, at the start of a new one.
    pub(crate) fn stream_opened(&mut self) -> Option<WatchEvent> {
        self.pending.clear();
        self.pending_weights.clear();
        self.expects_snapshot = self.token.is_empty();
        std::mem::take(&mut self.partial_snapshot).then_some(WatchEvent::Reset(ResetCause::Interrupted))
    }

    /// Returns the event of a message. A message that continues in the next one has none.
    pub(crate) fn read(&mut self, message: WatchResponse) -> Option<WatchEvent> {
        match message.message? {
            Message::Reset(reset) => {
                // The token is kept until the new snapshot is complete. If the stream breaks before, the next one begins with
                // the old token, so that a registry that lost its registrations knows that this reader still has some.
                self.pending.clear();
                self.partial_snapshot = false;
                self.outdated = true;
                self.expects_snapshot = true;
                Some(WatchEvent::Reset(reset.reason().into()))
            }
            Message::Snapshot(snapshot) => {
                self.partial_snapshot = true;
                Some(WatchEvent::Snapshot(snapshot.instances))
            }
            Message::Synced(synced) => {
                self.partial_snapshot = false;
                self.outdated = false;
                self.token = synced.resume_token;
                Some(WatchEvent::Synced { revision: synced.revision })
            }
            Message::Changes(part) => {
                let changes = part.changes.into_iter();
                self.pending.extend(changes.filter_map(|Change { change }| change));
                if part.revision == 0 {
                    return None;
                }
                self.token = part.resume_token;
                Some(WatchEvent::Changes { changes: std::mem::take(&mut self.pending), revision: part.revision })
            }
            Message::Bookmark(Bookmark { revision, resume_token, staleness }) => {
                self.token = resume_token;
                let Some(staleness) = staleness else { return Some(WatchEvent::Bookmark { revision }) };
                let age = staleness.age.and_then(|age| age.try_into().ok()).unwrap_or_default();
                Some(WatchEvent::Degraded { revision, age })
            }
            Message::Balancing(mut balancing) => {
                self.pending_weights.append(&mut balancing.weights);
                if balancing.more {
                    return None;
                }
                balancing.weights = std::mem::take(&mut self.pending_weights);
                Some(WatchEvent::Balancing(balancing))
            }
            Message::Notice(notice) => match Notice::try_from(notice) {
                Ok(Notice::Settling) => Some(WatchEvent::Settling),
                // A watch learns from bookmarks that the registry cannot reach its store.
                Ok(Notice::Unspecified | Notice::Reconnect | Notice::Degraded) | Err(_) => None,
            },
        }
    }

    /// Returns whether the stream resumes although the previous one sent a reset: another replica accepted the token.
    fn resumed_after_reset(&self, message: &WatchResponse) -> bool {
        let resumes = matches!(&message.message, Some(Message::Changes(_) | Message::Synced(_) | Message::Bookmark(_)));
        resumes && self.outdated && !self.expects_snapshot
    }
}

#[cfg(test)]
mod tests;
