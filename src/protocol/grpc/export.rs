//! Export of the registry: a stream of parts, each of which is encoded when the client can take it.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use tokio_stream::Stream;
use tonic::Status;

use super::{ApiError, encode};
use crate::{app::ServerContext, engine::LiveExport, pb::callboard::v1 as pb};

/// Parts of an export.
#[derive(Debug)]
pub struct ExportStream {
    export: LiveExport,
    /// First part without its data, until it is sent.
    first: Option<pb::ExportRegistryResponse>,
    /// Set after each part.
    must_yield: bool,
}

impl ExportStream {
    /// Collects the present state, which the parts have.
    pub(super) fn new(context: &ServerContext) -> Self {
        let export = LiveExport::collect(context.engine.registry());
        let first = pb::ExportRegistryResponse {
            revision: export.revision().0,
            instances: export.instances() as u64,
            policies: export.policies() as u64,
            staleness: encode::staleness(&*context.engine),
            replica: context.replica.clone(),
            ..Default::default()
        };
        Self { export, first: Some(first), must_yield: false }
    }
}

impl Stream for ExportStream {
    type Item = Result<pb::ExportRegistryResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Between two parts, the other tasks of the thread run: a client that reads fast would delay them for as long as it reads.
        if mem::replace(&mut self.must_yield, false) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.must_yield = true;
        let part = self.export.next_part().map_err(|error| Status::from(ApiError::Unencodable(error))).transpose();
        Poll::Ready(
            part.map(|data| Ok(pb::ExportRegistryResponse { data: data?, ..self.first.take().unwrap_or_default() })),
        )
    }
}
