//! Watches of the keys with a prefix.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::pb::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, watch_client::WatchClient,
    watch_request::RequestUnion,
};

use super::{
    client::{EtcdClient, MAX_RESPONSE_BYTES, Repetition},
    connection::{MemberChannel, MemberConnection},
    error::{EtcdError, EtcdErrorKind, EtcdOutcome},
    request::{EtcdRange, prefix_range},
    response::{header_revision, revision},
    revision_batches::{EtcdRevisionBatch, RevisionBatches},
};

/// Interval at which a watch asks for progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Number of intervals without any response after which a watch has stalled. Intervals are counted instead of time, so that a
/// pause of this process counts as one.
const MAX_SILENT_INTERVALS: u32 = 3;
/// Number of requests that wait to be sent. More than these only if the member reads nothing.
const REQUEST_QUEUE: usize = 8;

/// Watch of the keys with a prefix, at one member. It does not resume: after an error, its owner opens another one at the
/// revision after the last batch.
#[derive(Debug)]
pub struct EtcdWatch {
    client: EtcdClient,
    /// Index of the member.
    member: usize,
    connection: MemberConnection,
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    batches: RevisionBatches,
    progress: Interval,
    /// Number of intervals since the last response.
    silent_intervals: u32,
    error: Option<EtcdError>,
}

/// Event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtcdWatchEvent {
    /// The watched keys changed.
    Batch(EtcdRevisionBatch),
    /// The member answered a request for progress, once a second.
    Progress {
        /// Revision of the member. Versions before 3.4.25 and 3.5.8 may send it before the batches up to it, so it must not
        /// count as received.
        revision: u64,
    },
}

impl EtcdClient {
    /// Watches the keys with a prefix, from the changes of this revision on.
    ///
    /// # Errors
    ///
    /// [`Compacted`](EtcdErrorKind::Compacted) if the history does not reach back to the revision,
    /// [`FutureRevision`](EtcdErrorKind::FutureRevision) if the cluster has not reached the one before, otherwise the error of
    /// the last member that was asked.
    pub async fn watch(&self, prefix: impl Into<Bytes>, from_revision: u64) -> Result<EtcdWatch, EtcdError> {
        let (first, end) = prefix_range(prefix.into());
        let request = WatchCreateRequest {
            key: first.to_vec(),
            range_end: end.to_vec(),
            fragment: true,
            ..WatchCreateRequest::default()
        };
        let shared = &self.shared;
        let opening = shared.failover(Repetition::Always, |member| {
            let request = &request;
            shared.attempt(member, true, move |channel| self.open_watch(member, channel, request, from_revision))
        });
        let (watch, newest) = opening.await?;
        if newest.saturating_add(1) < from_revision {
            // etcd would send nothing until it reaches the revision. A member that lags does that soon; a cluster that was
            // created anew does not.
            let newest = self.range(EtcdRange::key(first).count_only()).await?.revision;
            if newest.saturating_add(1) < from_revision {
                let kind = EtcdErrorKind::FutureRevision { newest: Some(newest) };
                let reason = format!("the watch starts at {from_revision}, and the newest revision is {newest}");
                return Err(EtcdError::new(kind, EtcdOutcome::NotExecuted, watch.endpoint(), reason));
            }
        }
        Ok(watch)
    }

    /// Opens a watch at a member. Returns it with the newest revision of the member.
    async fn open_watch(
        &self,
        member: usize,
        channel: MemberChannel,
        request: &WatchCreateRequest,
        from_revision: u64,
    ) -> Result<(EtcdWatch, u64), EtcdError> {
        let starting_at = |revision: u64| {
            let request = WatchCreateRequest { start_revision: revision.cast_signed(), ..request.clone() };
            self.create_watch(member, channel.clone(), request, from_revision)
        };
        let (watch, newest) = starting_at(from_revision).await?;
        if newest >= from_revision {
            return Ok((watch, newest));
        }
        // etcd answers no request for progress while a watch starts in the future, and one at the next revision does so until
        // the next change. The newest revision is never compacted; its changes are skipped.
        drop(watch);
        let (watch, _) = starting_at(newest).await?;
        Ok((watch, newest))
    }

    async fn create_watch(
        &self,
        member: usize,
        channel: MemberChannel,
        request: WatchCreateRequest,
        from_revision: u64,
    ) -> Result<(EtcdWatch, u64), EtcdError> {
        let connection = channel.connection.clone();
        let (requests, sent) = mpsc::channel(REQUEST_QUEUE);
        let create = async {
            let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) };
            requests.send(create).await.map_err(|_| Status::internal("the stream of requests is closed"))?;
            let mut client = WatchClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
            let mut responses = client.watch(ReceiverStream::new(sent)).await?.into_inner();
            let created = responses.message().await?;
            Ok((responses, created))
        };
        let shared = &self.shared;
        let endpoint = shared.endpoint(member);
        let created = timeout(shared.request_timeout, create).await;
        let created = created.map_err(|_| shared.timed_out(member, &connection))?;
        let (responses, created) = created.map_err(|status: Status| EtcdError::of_status(endpoint, &status))?;
        let created = created.ok_or_else(|| closed(endpoint))?;
        let newest = header_revision(created.header.as_ref());
        let mut progress = interval(PROGRESS_INTERVAL);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = EtcdWatch {
            client: self.clone(),
            member,
            connection,
            requests,
            responses,
            batches: RevisionBatches::starting_at(from_revision),
            progress,
            silent_intervals: 0,
            error: None,
        };
        watch.receive(created)?;
        Ok((watch, newest))
    }
}

impl EtcdWatch {
    /// Returns the next event. It may be dropped before it is ready, and called again, without loss.
    ///
    /// # Errors
    ///
    /// The reason for which the watch has ended; each later call returns it, too.
    pub async fn next(&mut self) -> Result<EtcdWatchEvent, EtcdError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let next = self.wait().await;
        if let Err(error) = &next {
            self.error = Some(error.clone());
            if error.concerns_member() {
                self.client.shared.abandon(self.member, &self.connection);
            }
        }
        next
    }

    /// Endpoint of the member.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.client.shared.endpoint(self.member)
    }

    async fn wait(&mut self) -> Result<EtcdWatchEvent, EtcdError> {
        loop {
            if let Some(batch) = self.batches.next() {
                return Ok(EtcdWatchEvent::Batch(batch));
            }
            tokio::select! {
                biased;
                response = self.responses.message() => {
                    self.silent_intervals = 0;
                    let response = response.map_err(|status| EtcdError::of_status(self.endpoint(), &status))?;
                    let response = response.ok_or_else(|| closed(self.endpoint()))?;
                    if let Some(revision) = self.receive(response)? {
                        return Ok(EtcdWatchEvent::Progress { revision });
                    }
                }
                _ = self.progress.tick() => self.request_progress()?,
            }
        }
    }

    /// Takes a response, and returns the revision of one that only shows progress.
    fn receive(&mut self, response: WatchResponse) -> Result<Option<u64>, EtcdError> {
        if response.canceled {
            let compacted = revision(response.compact_revision);
            return Err(EtcdError::of_cancellation(self.endpoint(), &response.cancel_reason, compacted));
        }
        let newest = header_revision(response.header.as_ref());
        if response.events.is_empty() {
            return Ok(Some(newest).filter(|_| !response.created));
        }
        self.batches.push(response.events, response.fragment).map_err(|reason| {
            EtcdError::new(EtcdErrorKind::InvalidAnswer, EtcdOutcome::Unknown, self.endpoint(), reason)
        })?;
        Ok(None)
    }

    fn request_progress(&mut self) -> Result<(), EtcdError> {
        if self.silent_intervals >= MAX_SILENT_INTERVALS {
            let reason = format!(
                "no response within {}, although progress was asked for",
                humantime::format_duration(PROGRESS_INTERVAL * MAX_SILENT_INTERVALS)
            );
            return Err(EtcdError::new(EtcdErrorKind::Stalled, EtcdOutcome::Unknown, self.endpoint(), reason));
        }
        self.silent_intervals += 1;
        self.ask_progress();
        Ok(())
    }

    /// Asks for progress now. The member does not answer while it has changes to send.
    pub fn ask_progress(&self) {
        let request = WatchRequest { request_union: Some(RequestUnion::ProgressRequest(WatchProgressRequest {})) };
        // A queue that is full or closed shows as silence, or as the end of the stream.
        let _unsent = self.requests.try_send(request);
    }
}

fn closed(endpoint: &str) -> EtcdError {
    EtcdError::new(EtcdErrorKind::Disconnected, EtcdOutcome::Unknown, endpoint, "etcd closed the watch")
}
