//! A channel to a service: a gRPC client's transport that balances calls over the instances.

mod call;
mod call_table;
mod channel_task;
mod connection;
mod deadline;
mod response_body;
mod selection;
mod server_preface;
mod settings;
mod status;
mod transport_error;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, uri::Scheme};
use tokio::sync::{mpsc, watch};
use tonic::{Status, body::Body};
use tower::Service;

use self::{
    call::ChannelShared,
    call_table::CallTable,
    channel_task::{ChannelTask, RegistryEvent},
};
use super::{Backoff, Watch, WatchEvent, balance::RandomSequence};
use crate::pb::callboard::v1::WatchRequest;

pub use response_body::CallBody;
#[cfg(feature = "server")]
pub(crate) use server_preface::PrefaceReader;
pub(super) use settings::ChannelSettings;
pub use status::{ChannelInstance, ChannelStatus, ConnectionState};

/// Number of events of the registry that wait for the task of the channel.
const MAX_QUEUED_EVENTS: usize = 16;

/// Channel to a service, for any generated gRPC client: it is a `tonic::client::GrpcService`. Clones share its connections.
///
/// Each call goes to one of the instances that are SERVING or SUSPECT, over an HTTP/2 connection that is already open.
/// [`Discovery`](super::Discovery) describes the rules. Dropping the last clone ends the channel; calls in progress end first.
///
/// # Errors
///
/// Errors of the channel itself are statuses:
///
/// - `UNAVAILABLE`: no instance can be called, or the connection broke after the request was sent. The message names the
///   cause.
/// - `DEADLINE_EXCEEDED`: the deadline of the caller, or the timeout of the service's policy, has passed.
#[derive(Clone)]
pub struct BalancedChannel(Arc<ChannelShared>);

impl BalancedChannel {
    /// Starts the tasks of a channel.
    pub(super) fn open(settings: ChannelSettings) -> Self {
        let seed = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        let random = Arc::new(RandomSequence::new(seed));
        let (table, tables) = watch::channel(Arc::new(CallTable::empty(&random)));
        let epoch = super::now();
        #[cfg(feature = "tls")]
        let scheme = if settings.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        #[cfg(not(feature = "tls"))]
        let scheme = Scheme::HTTP;
        let shared = ChannelShared {
            service: settings.service.clone(),
            scheme,
            table: tables,
            random: Arc::clone(&random),
            epoch,
            wait_for_ready: settings.wait_for_ready,
            first_snapshot_timeout: settings.first_snapshot_timeout,
        };
        let (events, registry) = mpsc::channel(MAX_QUEUED_EVENTS);
        tokio::spawn(follow(settings.clone(), events));
        tokio::spawn(ChannelTask::new(settings, registry, table, random, epoch).run());
        Self(Arc::new(shared))
    }

    /// Returns the state of the channel.
    #[must_use]
    pub fn status(&self) -> ChannelStatus {
        self.0.table.borrow().status.clone()
    }

    /// Returns all instances that the channel knows, in no particular order.
    #[must_use]
    pub fn instances(&self) -> Vec<ChannelInstance> {
        let now = super::now() - self.0.epoch;
        let table = self.0.table.borrow().clone();
        table.instances.iter().map(|instance| ChannelInstance { now, ..instance.clone() }).collect()
    }

    /// Waits until a condition holds. It is checked after each change of the instances, the connections and the policy; not
    /// after each call.
    ///
    /// ```no_run
    /// # async fn example(channel: callboard::client::BalancedChannel) -> Result<(), tonic::Status> {
    /// channel.wait_for(|channel| channel.status().revision.is_some()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE` if the runtime that ran the channel has stopped.
    pub async fn wait_for(&self, mut condition: impl FnMut(&Self) -> bool) -> Result<(), Status> {
        let mut tables = self.0.table.clone();
        loop {
            tables.mark_unchanged();
            if condition(self) {
                return Ok(());
            }
            let changed = tables.changed().await;
            changed.map_err(|_| Status::unavailable("the runtime that ran the channel has stopped"))?;
        }
    }

    /// Waits until at least this number of instances is connected.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE` if the runtime that ran the channel has stopped.
    pub async fn connected(&self, instances: usize) -> Result<(), Status> {
        self.wait_for(|channel| channel.0.table.borrow().connections.len() >= instances).await
    }
}

impl fmt::Debug for BalancedChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalancedChannel").field("service", &self.0.service).field("status", &self.status()).finish()
    }
}

impl Service<Request<Body>> for BalancedChannel {
    type Response = Response<CallBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<CallBody>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // A call waits for its connection in its own future.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(Arc::clone(&self.0).call(request))
    }
}

/// Passes the events of the registry on until the channel is dropped.
async fn follow(settings: ChannelSettings, events: mpsc::Sender<RegistryEvent>) {
    let request = WatchRequest {
        services: vec![settings.service],
        filter: settings.filter,
        subset: settings.subset,
        balancing: true,
        ..WatchRequest::default()
    };
    let mut watch = Watch::new(&settings.servers, request);
    let mut backoff = Backoff::new();
    loop {
        let next = tokio::select! {
            () = events.closed() => return,
            next = watch.next() => next,
        };
        let (event, rejected) = match next {
            Ok(event) => {
                if matches!(event, WatchEvent::Synced { .. }) {
                    backoff.reset();
                }
                (RegistryEvent::Watch(event), false)
            }
            Err(error) => (RegistryEvent::Rejected(error.to_string()), true),
        };
        if events.send(event).await.is_err() {
            return;
        }
        if rejected {
            // The next registry may accept the watch, and this one later: access may be granted.
            tokio::time::sleep(backoff.delay(None)).await;
        }
    }
}
