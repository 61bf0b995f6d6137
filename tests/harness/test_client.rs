//! One connection with a client of each service, and short methods for common calls.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use callboard::pb::{
    callboard::v1::{
        Address, CheckReport, DeregisterRequest, Event, GetInstanceRequest, GetSelfPreservationRequest, Instance,
        Lease, ListChecksRequest, ListEventsRequest, ListInstancesRequest, ListSelfPreservationEventsRequest,
        RegisterRequest, RegisterResponse, ReportCheckRequest, ResetSelfPreservationRequest, SelfPreservation,
        SelfPreservationEvent, UpdateInstanceRequest, admin_service_client::AdminServiceClient,
        discovery_service_client::DiscoveryServiceClient, registry_service_client::RegistryServiceClient,
        xds_service_client::XdsServiceClient,
    },
    envoy::service::{
        discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
    },
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::health_client::HealthClient;

use super::within;

/// Clients of all services on one connection.
#[derive(Debug, Clone)]
pub struct TestClient {
    pub registry: RegistryServiceClient<Channel>,
    pub discovery: DiscoveryServiceClient<Channel>,
    pub admin: AdminServiceClient<Channel>,
    pub health: HealthClient<Channel>,
    pub xds: AggregatedDiscoveryServiceClient<Channel>,
    pub xds_status: ClientStatusDiscoveryServiceClient<Channel>,
    pub explain: XdsServiceClient<Channel>,
    /// Connection, for other services.
    pub channel: Channel,
}

impl TestClient {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, |endpoint| endpoint).await
    }

    /// Connects at the first call, and again after a failure.
    pub fn lazy(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self::over(endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy())
    }

    pub async fn connect_with(address: SocketAddr, change: impl FnOnce(Endpoint) -> Endpoint) -> Self {
        let endpoint = change(Endpoint::from_shared(format!("http://{address}")).unwrap());
        Self::over(within("a connection", endpoint.connect()).await.unwrap())
    }

    pub fn over(channel: Channel) -> Self {
        Self {
            registry: RegistryServiceClient::new(channel.clone()),
            discovery: DiscoveryServiceClient::new(channel.clone()),
            admin: AdminServiceClient::new(channel.clone()),
            health: HealthClient::new(channel.clone()),
            xds: AggregatedDiscoveryServiceClient::new(channel.clone()),
            xds_status: ClientStatusDiscoveryServiceClient::new(channel.clone()),
            explain: XdsServiceClient::new(channel.clone()),
            channel,
        }
    }

    pub async fn register(&self, request: RegisterRequest) -> Result<RegisterResponse, Status> {
        within("Register", self.registry.clone().register(request)).await.map(tonic::Response::into_inner)
    }

    /// Deregisters with a lease, or as an operator with an empty one. Returns the revision of the removal, if there was one.
    pub async fn deregister(&self, service: &str, id: &str, lease: &Bytes) -> Result<Option<u64>, Status> {
        let request = DeregisterRequest {
            service: service.to_owned(),
            id: id.to_owned(),
            lease_id: lease.clone(),
            ..DeregisterRequest::default()
        };
        let answer = within("Deregister", self.registry.clone().deregister(request)).await?.into_inner();
        Ok(answer.removed.then_some(answer.revision))
    }

    /// Updates the fields that `paths` names.
    pub async fn update(&self, paths: &[&str], request: UpdateInstanceRequest) -> Result<Instance, Status> {
        let paths = paths.iter().map(ToString::to_string).collect();
        let request = UpdateInstanceRequest { update_mask: Some(prost_types::FieldMask { paths }), ..request };
        let answer = within("UpdateInstance", self.registry.clone().update_instance(request)).await?;
        Ok(answer.into_inner().instance.unwrap())
    }

    /// Returns the lease of a registered instance.
    pub async fn lease(&self, service: &str, id: &str) -> Option<Lease> {
        let request = GetInstanceRequest { service: service.to_owned(), id: id.to_owned(), ..Default::default() };
        match within("GetInstance", self.discovery.clone().get_instance(request)).await {
            Ok(answer) => answer.into_inner().lease,
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => panic!("{status}"),
        }
    }

    pub async fn get(&self, service: &str, id: &str) -> Option<Instance> {
        let request = GetInstanceRequest { service: service.to_owned(), id: id.to_owned(), ..Default::default() };
        match within("GetInstance", self.discovery.clone().get_instance(request)).await {
            Ok(answer) => Some(answer.into_inner().instance.unwrap()),
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => panic!("{status}"),
        }
    }

    /// Returns all instances of a service.
    pub async fn list(&self, service: &str) -> Vec<Instance> {
        let mut instances = Vec::new();
        let mut request = ListInstancesRequest { service: service.to_owned(), ..ListInstancesRequest::default() };
        loop {
            let page = within("ListInstances", self.discovery.clone().list_instances(request.clone())).await;
            let page = page.unwrap().into_inner();
            instances.extend(page.instances);
            if page.next_page_token.is_empty() {
                return instances;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Returns the recent results of an instance's checks.
    pub async fn checks(&self, service: &str, id: &str) -> Vec<CheckReport> {
        let request = ListChecksRequest { service: service.to_owned(), id: id.to_owned() };
        let answer = within("ListChecks", self.admin.clone().list_checks(request)).await;
        answer.unwrap().into_inner().checks
    }

    /// Reports a check result.
    pub async fn report(&self, request: ReportCheckRequest) -> Result<(), Status> {
        within("ReportCheck", self.registry.clone().report_check(request)).await.map(|_| ())
    }

    /// Returns the self-preservation state of a service, or with an empty name of the registry.
    pub async fn self_preservation(&self, service: &str) -> SelfPreservation {
        let request = GetSelfPreservationRequest { service: service.to_owned() };
        let answer = within("GetSelfPreservation", self.admin.clone().get_self_preservation(request)).await;
        answer.unwrap().into_inner().self_preservation.unwrap()
    }

    /// Ends self-preservation of one service, or of all. Returns the number of silent instances that are released.
    pub async fn reset_self_preservation(&self, service: Option<&str>) -> u32 {
        let request =
            ResetSelfPreservationRequest { service: service.unwrap_or_default().to_owned(), all: service.is_none() };
        let answer = within("ResetSelfPreservation", self.admin.clone().reset_self_preservation(request)).await;
        answer.unwrap().into_inner().released_instances
    }

    /// Returns the log of self-preservation, the oldest entry first.
    pub async fn self_preservation_events(&self) -> Vec<SelfPreservationEvent> {
        let mut events = Vec::new();
        let mut request =
            ListSelfPreservationEventsRequest { page_size: 1_000, ..ListSelfPreservationEventsRequest::default() };
        loop {
            let page =
                within("ListSelfPreservationEvents", self.admin.clone().list_self_preservation_events(request.clone()))
                    .await;
            let page = page.unwrap().into_inner();
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                events.reverse();
                return events;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Returns all events, the oldest first.
    pub async fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut request = ListEventsRequest { page_size: 1_000, ..ListEventsRequest::default() };
        loop {
            let page = within("ListEvents", self.admin.clone().list_events(request.clone())).await;
            let page = page.unwrap().into_inner();
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                events.reverse();
                return events;
            }
            request.page_token = page.next_page_token;
        }
    }
}

/// Returns a complete registration: one address, a boot id, default lease terms.
pub fn instance(service: &str, id: &str) -> RegisterRequest {
    RegisterRequest {
        service: service.to_owned(),
        id: id.to_owned(),
        boot_id: "boot".to_owned(),
        addresses: vec![address("10.0.0.1", 80)],
        ..RegisterRequest::default()
    }
}

pub fn address(host: &str, port: u32) -> Address {
    Address { host: host.to_owned(), port, name: String::new() }
}

pub fn seconds(span: f64) -> Option<prost_types::Duration> {
    Duration::from_secs_f64(span).try_into().ok()
}
