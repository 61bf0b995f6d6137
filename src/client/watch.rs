//! A watch that keeps its place through reconnects.

use std::{collections::VecDeque, fmt, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use tonic::{Streaming, transport::Channel};

use super::{Backoff, ClientError, Connect, Endpoint, connect_error::ConnectErrorCell};
use crate::pb::callboard::v1::{
    Change, Instance, Notice, ResetReason, WatchRequest, WatchResponse, change,
    discovery_service_client::DiscoveryServiceClient, watch_response::Message,
};

/// What a watch tells.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// What is known can no longer be brought up to date. Serve from it until [`WatchEvent::Synced`], then replace it by
    /// what was snapshotted in between.
    Reset(ResetCause),
    /// A part of the snapshot that the next [`WatchEvent::Synced`] completes.
    Snapshot(Vec<Instance>),
    /// The snapshot is complete, or a resumed stream needs none.
    Synced {
        /// The revision that the reader now stands at.
        revision: u64,
    },
    /// Everything that became different up to a revision: to be applied as one.
    Changes {
        /// Each instance at most once.
        changes: Vec<change::Change>,
        /// The revision that the reader now stands at.
        revision: u64,
    },
    /// Nothing changed here up to a revision.
    Bookmark {
        /// The revision that the reader now stands at.
        revision: u64,
    },
    /// The registry answers, but cannot reach its store: changes may be late.
    Degraded,
    /// The registry has lost registrations in a restart, and waits for those who were registered to come back. What is known
    /// stays good meanwhile; a [`WatchEvent::Reset`] follows.
    Settling,
    /// The stream broke, or could not be opened. What is known stays good as far as it goes.
    Disconnected {
        /// Why.
        error: ClientError,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// After a disconnection, the stream is open again.
    Reconnected,
}

/// Why a watch starts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetCause {
    /// The registry started anew.
    OtherIncarnation,
    /// The token was made for another selection or filter.
    OtherSelector,
    /// The history since then is no longer kept.
    Compacted,
    /// The token is from a revision that has not been reached there.
    FutureRevision,
    /// The stream broke within a snapshot: its parts are void. Said by the client, not by the registry.
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

/// Watches services for as long as it is asked for the next event.
pub struct Watch {
    connect: Connect,
    trouble: ConnectErrorCell,
    request: WatchRequest,
    reader: WatchReader,
    stream: Option<Streaming<WatchResponse>>,
    ready: VecDeque<WatchEvent>,
    retry_at: Option<Instant>,
    backoff: Backoff,
}

impl Watch {
    /// Watches what the request selects; a resume token in it is used to begin with. The stream is opened by the first
    /// [`Watch::next`].
    #[must_use]
    pub fn new(endpoint: &Endpoint, request: WatchRequest) -> Self {
        let (endpoint, trouble) = (endpoint.clone(), endpoint.trouble());
        Self { trouble, ..Self::over(Box::new(move || endpoint.channel()), request) }
    }

    /// The same on a connection that others share, as [`Endpoint::channel`] makes them: one connection carries up to 1,024
    /// streams. What it saves in connections it costs in haste: one that hangs is noticed by its pings only, after 30 s.
    #[must_use]
    pub fn on(channel: &Channel, request: WatchRequest) -> Self {
        let channel = channel.clone();
        Self::over(Box::new(move || channel.clone()), request)
    }

    /// The same over connections of the caller's making.
    pub(crate) fn over(connect: Connect, mut request: WatchRequest) -> Self {
        let token = std::mem::take(&mut request.resume_token);
        Self {
            connect,
            trouble: ConnectErrorCell::default(),
            request,
            reader: WatchReader { token, ..WatchReader::default() },
            stream: None,
            ready: VecDeque::new(),
            retry_at: None,
            backoff: Backoff::new(),
        }
    }

    /// To resume from what has been told so far, in another [`Watch`] of the same selection. Empty before the first
    /// [`WatchEvent::Synced`]; between a reset and the next one, that of the set that is still to be served from.
    #[must_use]
    pub fn token(&self) -> &Bytes {
        self.reader.token()
    }

    /// The next event, however long it takes. Nothing is lost when it is dropped meanwhile.
    ///
    /// # Errors
    ///
    /// Only where trying again is in vain: the selection or the filter is refused, or access is.
    pub async fn next(&mut self) -> Result<WatchEvent, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if let Err(error) = self.advance().await {
                let error = self.trouble.explain(error);
                if error.is_final() {
                    return Err(error);
                }
                let retry_in = self.backoff.delay(error.retry_after());
                self.stream = None;
                self.retry_at = Some(super::now() + retry_in);
                return Ok(WatchEvent::Disconnected { error, retry_in });
            }
        }
    }

    /// One message further, or one step towards a stream.
    async fn advance(&mut self) -> Result<(), ClientError> {
        let Some(stream) = &mut self.stream else {
            return self.open().await;
        };
        let message = stream.message().await?.ok_or(ClientError::Ended)?;
        self.backoff.reset();
        let notice = matches!(&message.message, Some(Message::Notice(notice)) if *notice == Notice::Reconnect as i32);
        if notice {
            return Err(ClientError::GoingAway);
        }
        if self.reader.fits_after_all(&message) {
            // The program has been told to start over: so it needs a snapshot, which only a stream without a token begins with.
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
        let mut client: DiscoveryServiceClient<Channel> = DiscoveryServiceClient::new((self.connect)());
        let request = WatchRequest { resume_token: self.reader.token.clone(), ..self.request.clone() };
        self.stream = Some(client.watch(request).await?.into_inner());
        if self.retry_at.take().is_some() {
            self.ready.push_back(WatchEvent::Reconnected);
        }
        self.ready.extend(self.reader.begin());
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

/// Reads messages in order and knows where the reader stands.
#[derive(Debug, Default)]
pub(crate) struct WatchReader {
    token: Bytes,
    /// Changes of a step whose last message has not come yet.
    step: Vec<change::Change>,
    /// Parts of a snapshot were told that was not completed.
    partial: bool,
    /// The program was told to start over, and has had no complete snapshot since: it serves from the set of the token.
    outdated: bool,
    /// The snapshot that it needs is on this stream.
    coming: bool,
}

impl WatchReader {
    /// From where another stream would go on.
    pub(crate) fn token(&self) -> &Bytes {
        &self.token
    }

    /// A stream begins: what the one before left unfinished will not be finished.
    pub(crate) fn begin(&mut self) -> Option<WatchEvent> {
        self.step.clear();
        self.coming = self.token.is_empty();
        std::mem::take(&mut self.partial).then_some(WatchEvent::Reset(ResetCause::Interrupted))
    }

    /// What a message tells.
    pub(crate) fn read(&mut self, message: WatchResponse) -> Option<WatchEvent> {
        match message.message? {
            Message::Reset(reset) => {
                // The token stays until there is a complete set in the place of its own. Another stream begins with it, so that
                // a registry which has forgotten that set knows that there is something to lose.
                self.step.clear();
                self.partial = false;
                self.outdated = true;
                self.coming = true;
                Some(WatchEvent::Reset(reset.reason().into()))
            }
            Message::Snapshot(snapshot) => {
                self.partial = true;
                Some(WatchEvent::Snapshot(snapshot.instances))
            }
            Message::Synced(synced) => {
                self.partial = false;
                self.outdated = false;
                self.token = synced.resume_token;
                Some(WatchEvent::Synced { revision: synced.revision })
            }
            Message::Changes(part) => {
                let changes = part.changes.into_iter();
                self.step.extend(changes.filter_map(|Change { change }| change));
                if part.revision == 0 {
                    return None;
                }
                self.token = part.resume_token;
                Some(WatchEvent::Changes { changes: std::mem::take(&mut self.step), revision: part.revision })
            }
            Message::Bookmark(bookmark) => {
                self.token = bookmark.resume_token;
                Some(WatchEvent::Bookmark { revision: bookmark.revision })
            }
            Message::Notice(notice) => match Notice::try_from(notice) {
                Ok(Notice::Degraded) => Some(WatchEvent::Degraded),
                Ok(Notice::Settling) => Some(WatchEvent::Settling),
                Ok(Notice::Unspecified | Notice::Reconnect) | Err(_) => None,
            },
        }
    }

    /// Whether a token that was refused is taken now: by another replica, which remembers more.
    fn fits_after_all(&self, message: &WatchResponse) -> bool {
        let goes_on = matches!(&message.message, Some(Message::Changes(_) | Message::Synced(_) | Message::Bookmark(_)));
        goes_on && self.outdated && !self.coming
    }
}

#[cfg(test)]
mod tests;
