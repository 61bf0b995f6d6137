//! Stream of the load reporting service: asks a client for reports, and passes them on.
//!
//! The client sends its node first, and then a report in each interval. The registry uses the requests of a cluster for the shares of
//! zones, and the errors of instances for their weights. A stream keeps no report: its memory is that of the names of the clusters that
//! its reports count in.

use std::{
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use prometheus_client::metrics::counter::Counter;
use prost::Message as _;
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::{
    XdsApi,
    cluster_name::split_cluster_name,
    error::XdsError,
    load_report::{ReportLimit, load_report_settings, reported_calls},
    request::NodeIdentity,
    source::ClientProfile,
    zone_layouts::ZoneLoadReports,
};
use crate::{
    metrics::Metrics,
    model::ServiceName,
    pb::envoy::service::load_stats::v3::LoadStatsRequest,
    transport::{
        Connection, Interest, MESSAGE_PREFIX_BYTES, MessageSource, NextMessage, WakeRegistration, put_message_prefix,
    },
};

/// Time within which the first request of a stream must arrive.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// Stream of load reports of one client.
#[derive(Debug)]
pub(super) struct LoadReportStream {
    api: Arc<XdsApi>,
    requests: Streaming<LoadStatsRequest>,
    wake: WakeRegistration,
    limit: ReportLimit,
    /// `None`: the client has not said what it is.
    client: Option<LoadReportClient>,
    /// Timer until the first request must have arrived.
    timer: Option<Pin<Box<Sleep>>>,
    counted: OpenLoadReportStream,
    ended: bool,
}

/// Client of a stream.
#[derive(Debug)]
struct LoadReportClient {
    /// `None`: the client has named no zone.
    zone: Option<ZoneLoadReports>,
    /// Counter of the requests that clients of its library report.
    requests: Counter,
}

/// Stream that the metrics count as open. Dropping it ends that.
#[derive(Debug)]
struct OpenLoadReportStream(Arc<Metrics>);

impl OpenLoadReportStream {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.xds.load_report_streams.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for OpenLoadReportStream {
    fn drop(&mut self) {
        self.0.xds.load_report_streams.dec();
    }
}

impl LoadReportStream {
    pub(super) fn new(api: &Arc<XdsApi>, connection: &Arc<Connection>, requests: Streaming<LoadStatsRequest>) -> Self {
        let context = &api.context;
        Self {
            requests,
            wake: context.notifier.register(connection, Interest::Nothing),
            limit: ReportLimit::new(context.clock.since_start()),
            client: None,
            timer: Some(Box::pin(sleep(FIRST_REQUEST_TIMEOUT))),
            counted: OpenLoadReportStream::new(&context.metrics),
            ended: false,
            api: Arc::clone(api),
        }
    }

    /// Takes in a request. Returns the response to the first one.
    fn request(&mut self, request: LoadStatsRequest) -> Result<Option<NextMessage>, XdsError> {
        let now = self.api.context.clock.since_start();
        self.limit.count(now)?;
        self.timer = None;
        let is_first = self.client.is_none();
        let client = self.client.get_or_insert_with(|| {
            let profile = ClientProfile::of(&request.node.map(NodeIdentity::from).unwrap_or_default());
            LoadReportClient {
                requests: self.api.context.metrics.xds.reported_requests(profile.family.library().label()),
                zone: profile.zone.map(|zone| ZoneLoadReports::new(&self.api.zone_layouts, zone)),
            }
        });
        let calls = reported_calls(request.cluster_stats)?;
        client.requests.inc_by(calls.iter().map(|cluster| cluster.started).sum());
        if let Some(zone) = &mut client.zone {
            zone.report(calls.iter().map(|cluster| (cluster.cluster.as_str(), cluster.rate)), now);
        }
        for cluster in calls.iter().filter(|cluster| !cluster.instances.is_empty()) {
            if let Ok(service) = ServiceName::parse(split_cluster_name(&cluster.cluster).0) {
                self.api.context.weights.report_calls(&service, &cluster.instances);
            }
        }
        if is_first {
            return Ok(Some(settings()));
        }
        self.counted.0.xds.load_reports.inc();
        Ok(None)
    }

    fn end(&mut self, status: Status) -> Poll<Option<NextMessage>> {
        self.ended = true;
        Poll::Ready(Some(NextMessage::End(status)))
    }
}

/// Returns the message that asks for reports.
fn settings() -> NextMessage {
    let settings = load_report_settings();
    let length = settings.encoded_len();
    let mut message = BytesMut::with_capacity(MESSAGE_PREFIX_BYTES + length);
    put_message_prefix(length, &mut message);
    message.extend_from_slice(&settings.encode_to_vec());
    NextMessage::Message(vec![message.freeze()])
}

impl MessageSource for LoadReportStream {
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<NextMessage>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Registers the task, so that it is woken when the stream has to end.
        while self.wake.poll_woken(context).is_ready() {}
        if self.wake.must_end() {
            return self.end(XdsError::ShuttingDown.into());
        }
        loop {
            match Pin::new(&mut self.requests).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => match self.request(request) {
                    Ok(Some(response)) => return Poll::Ready(Some(response)),
                    Ok(None) => {}
                    Err(error) => return self.end(error.into()),
                },
                Poll::Ready(Some(Err(status))) => {
                    let error = XdsError::of_request(&status, self.api.max_request_bytes());
                    return self.end(error.map_or(status, Status::from));
                }
                Poll::Ready(None) => return self.end(Status::ok("")),
                Poll::Pending => break,
            }
        }
        if self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(context).is_ready()) {
            return self.end(XdsError::NoRequest(FIRST_REQUEST_TIMEOUT).into());
        }
        Poll::Pending
    }
}
