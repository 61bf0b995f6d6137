//! `DiscoveryService` without Watch: `ListInstances`, `GetInstance`, `ListServices`.

use prost::Message;
use tonic::{Request, Response, Status};

use super::{ApiError, GrpcApi, decode, encode};
use crate::{
    app::{PAGE_BYTES, ServerContext, page_size},
    model::{InstanceFilter, InstanceId, ServiceName, SubsetName},
    pb::{callboard::v1 as pb, server::discovery_service_server::DiscoveryService},
    registry::CommandError,
};

/// Default number of entries of a page.
const DEFAULT_PAGE_SIZE: u32 = 1_000;
/// Approximate encoded bytes of a service summary besides its name.
const SUMMARY_BYTES: usize = 32;

#[tonic::async_trait]
impl DiscoveryService for GrpcApi {
    async fn list_instances(
        &self,
        request: Request<pb::ListInstancesRequest>,
    ) -> Result<Response<pb::ListInstancesResponse>, Status> {
        let message = request.get_ref();
        let service = ServiceName::parse(&message.service).map_err(ApiError::from)?;
        let filter = InstanceFilter::parse(&message.filter).map_err(ApiError::from)?;
        let subset = decode::subset(&message.subset)?;
        let subset = subset.map(|subset| subset_filter(&self.context, &service, &subset)).transpose()?;
        let after = decode::instances_after(&message.page_token)?;
        let size = page_size(message.page_size, DEFAULT_PAGE_SIZE);
        self.synchronize_if(message.consistent).await?;
        let registry = self.context.engine.registry();
        let mut answer = pb::ListInstancesResponse {
            revision: registry.applied().0,
            staleness: encode::staleness(&*self.context.engine),
            ..Default::default()
        };
        // Reads one entry more than the page holds, to find whether there is a next page.
        let page = registry.page(&service, after.as_ref().map_or("", InstanceId::as_str), size + 1);
        let mut bytes = 0;
        for (at, entry) in page.iter().take(size).enumerate() {
            if [&filter, &subset].into_iter().flatten().all(|filter| filter.matches(&entry.instance)) {
                let instance = encode::instance(&entry.instance);
                bytes += instance.encoded_len();
                answer.instances.push(instance);
                if registry.has_replicas() {
                    answer.holders.push(encode::holder(&*self.context.engine, entry));
                }
            }
            if (bytes >= PAGE_BYTES || at + 1 == size) && at + 1 < page.len() {
                answer.next_page_token = entry.instance.id.to_string();
                break;
            }
        }
        Ok(Response::new(answer))
    }

    async fn get_instance(
        &self,
        request: Request<pb::GetInstanceRequest>,
    ) -> Result<Response<pb::GetInstanceResponse>, Status> {
        let message = request.get_ref();
        let service = ServiceName::parse(&message.service).map_err(ApiError::from)?;
        let id = InstanceId::parse_any(&message.id).map_err(ApiError::from)?;
        self.synchronize_if(message.consistent).await?;
        let entry = self.context.engine.registry().get(&service, id.as_str());
        let entry = entry.ok_or_else(|| ApiError::from(CommandError::NoSuchInstance { service, id }))?;
        let now = self.context.clock.now().lease;
        Ok(Response::new(pb::GetInstanceResponse {
            instance: Some(encode::instance(&entry.instance)),
            lease: entry.lease.as_ref().map(|lease| encode::lease(lease, now)),
            load: entry.lease.as_ref().and_then(|lease| lease.load()).map(|(load, _)| encode::load(load)),
            effective_weight: encode::effective_weight(
                self.context.weights.of(&entry.instance.service).as_deref(),
                &entry.instance,
            ),
            staleness: encode::staleness(&*self.context.engine),
            holder: encode::holder(&*self.context.engine, &entry),
        }))
    }

    async fn list_services(
        &self,
        request: Request<pb::ListServicesRequest>,
    ) -> Result<Response<pb::ListServicesResponse>, Status> {
        let message = request.get_ref();
        let size = page_size(message.page_size, DEFAULT_PAGE_SIZE);
        let after = decode::services_after(&message.page_token)?;
        self.synchronize_if(message.consistent).await?;
        let registry = self.context.engine.registry();
        let revision = registry.applied().0;
        let (mut summaries, mut next) =
            registry.services(&message.prefix, after.as_ref().map_or("", ServiceName::as_str), size);
        let most = page_length(summaries.iter().map(|summary| summary.name.as_str().len() + SUMMARY_BYTES));
        if most < summaries.len() {
            summaries.truncate(most);
            next = summaries.last().map(|summary| summary.name.clone());
        }
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let services = summaries.into_iter().map(|summary| pb::ServiceSummary {
            name: summary.name.to_string(),
            instances: count(summary.instances),
            available: count(summary.available),
            revision: summary.revision.0,
        });
        let next_page_token = next.map(|name| name.to_string()).unwrap_or_default();
        Ok(Response::new(pb::ListServicesResponse {
            services: services.collect(),
            next_page_token,
            revision,
            staleness: encode::staleness(&*self.context.engine),
        }))
    }
}

impl GrpcApi {
    /// Waits for what a consistent read includes.
    pub(super) async fn synchronize_if(&self, consistent: bool) -> Result<(), ApiError> {
        if consistent { Ok(self.context.engine.synchronize().await?) } else { Ok(()) }
    }
}

/// Returns the filter of a subset.
pub(super) fn subset_filter(
    context: &ServerContext,
    service: &ServiceName,
    subset: &SubsetName,
) -> Result<InstanceFilter, ApiError> {
    let policy = context.engine.registry().policies().effective(service);
    policy.subsets.get(subset).map(|found| found.filter.clone()).ok_or_else(|| {
        let known: Vec<_> = policy.subsets.keys().map(SubsetName::as_str).collect();
        ApiError::NoSuchSubset { service: service.clone(), subset: subset.clone(), known: known.join(", ") }
    })
}

/// Returns the number of entries, given their sizes in bytes, that a page takes. The entry that fills the page is the last.
pub(super) fn page_length(sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    sizes
        .take_while(|size| {
            let fits = bytes < PAGE_BYTES;
            bytes += size;
            fits
        })
        .count()
}
