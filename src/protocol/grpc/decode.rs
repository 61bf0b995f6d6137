//! Conversions from the contract's messages to the model's types. Everything that a client sends is validated here.

use super::{ApiError, check, time::parse_duration};
use crate::{
    app,
    model::{
        Address, BootId, FieldError, InstanceFilter, InstanceId, LeaseId, LeaseTerms, LoadReport, Locality, Metadata,
        ResumeToken, Revision, Selector, ServiceName, SubsetName, Tags, Weight,
    },
    pb::callboard::v1 as pb,
    registry::{Command, DeregisterGuard, InstanceDescription, Patch, Register},
};

/// Decodes a registration. `fresh`: random id for its lease, if it needs a new lease.
pub(super) fn register(request: &pb::RegisterRequest, fresh: LeaseId) -> Result<Register, ApiError> {
    let addresses =
        request.addresses.iter().map(|address| (address.host.as_str(), address.port, address.name.as_str()));
    let none = pb::Locality::default();
    let locality = request.locality.as_ref().unwrap_or(&none);
    Ok(Register {
        service: ServiceName::parse(&request.service)?,
        id: InstanceId::parse(&request.id)?,
        boot: BootId::parse(&request.boot_id)?,
        description: InstanceDescription {
            addresses: Address::parse_all(addresses)?,
            tags: Tags::parse(&request.tags)?,
            metadata: Metadata::parse(request.metadata.iter())?,
            weight: request.weight.map_or(Ok(Weight::DEFAULT), Weight::parse)?,
            locality: Locality::parse(&locality.region, &locality.zone, &locality.sub_zone)?,
        },
        checks: check::decode_all(&request.checks)?,
        terms: LeaseTerms::grant(
            parse_duration("ttl", request.ttl.as_ref())?,
            parse_duration("disconnect_grace", request.disconnect_grace.as_ref())?,
        ),
        starting: request.starting,
        replace: request.replace,
        lease: fresh,
    })
}

pub(super) fn deregister(request: &pb::DeregisterRequest) -> Result<Command, ApiError> {
    let lease = optional_lease(&request.lease_id)?;
    let boot = if request.boot_id.is_empty() { None } else { Some(BootId::parse(&request.boot_id)?) };
    let guard =
        if lease.is_none() && boot.is_none() { DeregisterGuard::Any } else { DeregisterGuard::Holder { lease, boot } };
    Ok(Command::Deregister {
        service: ServiceName::parse(&request.service)?,
        id: InstanceId::parse_any(&request.id)?,
        guard,
    })
}

pub(super) fn update(request: &pb::UpdateInstanceRequest) -> Result<Command, ApiError> {
    let paths = request.update_mask.as_ref().map(|mask| mask.paths.as_slice()).unwrap_or_default();
    let known = "name at least one of weight, draining, tags, metadata, starting";
    if paths.is_empty() {
        return Err(FieldError::without_value("update_mask", "is empty", known).into());
    }
    let mut patch = Patch::default();
    for path in paths {
        match path.as_str() {
            "weight" => patch.weight = Some(Weight::parse(request.weight)?),
            "draining" => patch.draining = Some(request.draining),
            "starting" => patch.starting = Some(request.starting),
            "tags" => patch.tags = Some(Tags::parse(&request.tags)?),
            "metadata" => patch.metadata = Some(Metadata::parse(request.metadata.iter())?),
            other => {
                return Err(FieldError::new("update_mask", other, "is not a field that can be updated", known).into());
            }
        }
    }
    Ok(Command::Update {
        service: ServiceName::parse(&request.service)?,
        id: InstanceId::parse_any(&request.id)?,
        lease: optional_lease(&request.lease_id)?,
        patch,
    })
}

/// Content of a request to watch.
#[derive(Debug)]
pub(super) struct WatchOptions {
    pub(super) selector: Selector,
    pub(super) filter: Option<InstanceFilter>,
    pub(super) token: Option<ResumeToken>,
    /// Service, and subset of it.
    pub(super) subset: Option<(ServiceName, SubsetName)>,
    pub(super) balancing: bool,
}

/// Decodes a request to watch.
pub(super) fn watch(request: &pb::WatchRequest) -> Result<WatchOptions, ApiError> {
    let selector = Selector::parse(&request.services, &request.prefix, request.everything)?;
    let token = if request.resume_token.is_empty() { None } else { Some(ResumeToken::parse(&request.resume_token)?) };
    let subset = match (subset(&request.subset)?, &selector) {
        (None, _) => None,
        (Some(subset), Selector::Names(names)) if names.len() == 1 => {
            names.first().map(|service| (service.clone(), subset))
        }
        (Some(_), Selector::Names(_) | Selector::Prefix(_) | Selector::Everything) => {
            let hint = "give exactly one service, or leave the subset empty";
            let problem = "is given for several services, and each service has its own subsets";
            return Err(FieldError::new("subset", &request.subset, problem, hint).into());
        }
    };
    let filter = InstanceFilter::parse(&request.filter)?;
    Ok(WatchOptions { selector, filter, token, subset, balancing: request.balancing })
}

/// Decodes the name of a subset. Empty: none.
pub(super) fn subset(name: &str) -> Result<Option<SubsetName>, ApiError> {
    Ok(if name.is_empty() { None } else { Some(SubsetName::parse(name)?) })
}

pub(super) fn load(load: &pb::LoadReport) -> Result<LoadReport, ApiError> {
    let report = LoadReport {
        utilization: load.utilization,
        in_flight: load.in_flight,
        response_time: parse_duration("load.response_time", load.response_time.as_ref())?,
        requests: load.requests,
        errors: load.errors,
    };
    Ok(report.validated()?)
}

/// Decodes the position at which the previous page ended. `None`: the first page.
pub(super) fn page_after<P>(token: &str, parse: impl FnOnce(&str) -> Option<P>) -> Result<Option<P>, ApiError> {
    Ok(app::page_after(token, parse)?)
}

/// Decodes a position in a list of instances.
pub(super) fn instances_after(token: &str) -> Result<Option<InstanceId>, ApiError> {
    page_after(token, |token| InstanceId::parse_any(token).ok())
}

/// Decodes a position in a list of services.
pub(super) fn services_after(token: &str) -> Result<Option<ServiceName>, ApiError> {
    page_after(token, |token| ServiceName::parse(token).ok())
}

/// Decodes a position in the list of events: the next page has the events before this revision.
pub(super) fn events_before(token: &str) -> Result<Revision, ApiError> {
    Ok(page_after(token, |token| token.parse().ok())?.map_or(Revision(u64::MAX), Revision))
}

fn optional_lease(bytes: &[u8]) -> Result<Option<LeaseId>, ApiError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    LeaseId::from_bytes(bytes).map(Some).ok_or_else(|| {
        let hint = "send the lease_id that Register returned, byte for byte";
        FieldError::without_value("lease_id", format!("has {} bytes where a lease id has 16", bytes.len()), hint).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalid_field(result: Result<impl std::fmt::Debug, ApiError>) -> String {
        match result.unwrap_err() {
            ApiError::Invalid(invalid) => invalid.field.into_owned(),
            other => panic!("{other}"),
        }
    }

    fn good() -> pb::RegisterRequest {
        pb::RegisterRequest {
            service: "web".into(),
            id: "a".into(),
            boot_id: "b".into(),
            addresses: vec![pb::Address { host: "10.0.0.1".into(), port: 80, name: String::new() }],
            ..Default::default()
        }
    }

    #[test]
    fn invalid_field_is_named_in_the_error() {
        let fresh = LeaseId(1);
        assert!(register(&good(), fresh).is_ok());
        let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        let cases = [
            ("service", pb::RegisterRequest { service: String::new(), ..good() }),
            ("id", pb::RegisterRequest { id: String::new(), ..good() }),
            ("boot_id", pb::RegisterRequest { boot_id: String::new(), ..good() }),
            ("addresses", pb::RegisterRequest { addresses: vec![], ..good() }),
            ("weight", pb::RegisterRequest { weight: Some(0), ..good() }),
            ("ttl", pb::RegisterRequest { ttl: negative, ..good() }),
            ("disconnect_grace", pb::RegisterRequest { disconnect_grace: negative, ..good() }),
        ];
        for (field, request) in cases {
            assert_eq!(invalid_field(register(&request, fresh)), field);
        }
        assert_eq!(
            invalid_field(deregister(&pb::DeregisterRequest { lease_id: vec![1].into(), ..Default::default() })),
            "lease_id"
        );
    }

    #[test]
    fn update_without_mask_of_known_fields_is_rejected() {
        let mask = |path: &str| Some(prost_types::FieldMask { paths: vec![path.into()] });
        let request = pb::UpdateInstanceRequest { service: "web".into(), id: "a".into(), ..Default::default() };
        assert_eq!(invalid_field(update(&request)), "update_mask");
        let other = pb::UpdateInstanceRequest { update_mask: mask("addresses"), ..request.clone() };
        assert_eq!(invalid_field(update(&other)), "update_mask");
        let good = pb::UpdateInstanceRequest { update_mask: mask("draining"), draining: true, ..request };
        assert!(matches!(update(&good), Ok(Command::Update { patch: Patch { draining: Some(true), .. }, .. })));
    }

    #[test]
    fn page_size_is_limited_and_foreign_page_token_is_rejected() {
        assert_eq!(app::page_size(0, 100), 100);
        assert_eq!(app::page_size(5_000, 100), 1_000);
        assert_eq!(invalid_field(events_before("x")), "page_token");
    }
}
