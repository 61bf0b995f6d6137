//! The contract's messages as the model's types: everything a peer says is checked here.

use std::time::Duration;

use super::ApiError;
use crate::{
    model::{
        Address, BootId, FieldError, InstanceFilter, InstanceId, LeaseId, LeaseTerms, LoadReport, Locality, Metadata,
        ResumeToken, Revision, Selector, ServiceName, Tags, Weight,
    },
    pb::callboard::v1 as pb,
    registry::{Command, DeregisterGuard, InstanceDescription, Patch, Register},
};

/// Most entries of a page.
const PAGE: u32 = 1_000;

/// A registration. `fresh` names its lease, should it need a new one.
pub(super) fn register(asked: &pb::RegisterRequest, fresh: LeaseId) -> Result<Register, ApiError> {
    let addresses = asked.addresses.iter().map(|address| (address.host.as_str(), address.port, address.name.as_str()));
    let none = pb::Locality::default();
    let locality = asked.locality.as_ref().unwrap_or(&none);
    Ok(Register {
        service: ServiceName::parse(&asked.service)?,
        id: InstanceId::parse(&asked.id)?,
        boot: BootId::parse(&asked.boot_id)?,
        description: InstanceDescription {
            addresses: Address::parse_all(addresses)?,
            tags: Tags::parse(&asked.tags)?,
            metadata: Metadata::parse(asked.metadata.iter())?,
            weight: asked.weight.map_or(Ok(Weight::DEFAULT), Weight::parse)?,
            locality: Locality::parse(&locality.region, &locality.zone, &locality.sub_zone)?,
        },
        checks: super::check::asked(&asked.checks)?,
        terms: LeaseTerms::grant(
            span("ttl", asked.ttl.as_ref())?,
            span("disconnect_grace", asked.disconnect_grace.as_ref())?,
        ),
        starting: asked.starting,
        replace: asked.replace,
        lease: fresh,
    })
}

pub(super) fn deregister(asked: &pb::DeregisterRequest) -> Result<Command, ApiError> {
    let lease = optional_lease(&asked.lease_id)?;
    let boot = if asked.boot_id.is_empty() { None } else { Some(BootId::parse(&asked.boot_id)?) };
    let guard =
        if lease.is_none() && boot.is_none() { DeregisterGuard::Any } else { DeregisterGuard::Holder { lease, boot } };
    Ok(Command::Deregister {
        service: ServiceName::parse(&asked.service)?,
        id: InstanceId::parse_any(&asked.id)?,
        guard,
    })
}

pub(super) fn update(asked: &pb::UpdateInstanceRequest) -> Result<Command, ApiError> {
    let paths = asked.update_mask.as_ref().map(|mask| mask.paths.as_slice()).unwrap_or_default();
    let known = "name at least one of weight, draining, tags, metadata, starting";
    if paths.is_empty() {
        return Err(FieldError::without_value("update_mask", "is empty", known).into());
    }
    let mut patch = Patch::default();
    for path in paths {
        match path.as_str() {
            "weight" => patch.weight = Some(Weight::parse(asked.weight)?),
            "draining" => patch.draining = Some(asked.draining),
            "starting" => patch.starting = Some(asked.starting),
            "tags" => patch.tags = Some(Tags::parse(&asked.tags)?),
            "metadata" => patch.metadata = Some(Metadata::parse(asked.metadata.iter())?),
            other => return Err(FieldError::new("update_mask", other, "is no field that can be updated", known).into()),
        }
    }
    Ok(Command::Update {
        service: ServiceName::parse(&asked.service)?,
        id: InstanceId::parse_any(&asked.id)?,
        lease: optional_lease(&asked.lease_id)?,
        patch,
    })
}

/// What a watch selects, its filter, and where it goes on from.
pub(super) fn watch(
    asked: &pb::WatchRequest,
) -> Result<(Selector, Option<InstanceFilter>, Option<ResumeToken>), ApiError> {
    let selection = Selector::parse(&asked.services, &asked.prefix, asked.everything)?;
    let token = if asked.resume_token.is_empty() { None } else { Some(ResumeToken::parse(&asked.resume_token)?) };
    Ok((selection, InstanceFilter::parse(&asked.filter)?, token))
}

pub(super) fn load(load: &pb::LoadReport) -> Result<LoadReport, ApiError> {
    let report = LoadReport {
        utilization: load.utilization,
        in_flight: load.in_flight,
        response_time: span("load.response_time", load.response_time.as_ref())?,
        requests: load.requests,
        errors: load.errors,
    };
    Ok(report.validated()?)
}

/// How many entries a page may have.
pub(super) fn page_size(asked: u32, usual: u32) -> usize {
    let size = if asked == 0 { usual } else { asked.min(PAGE) };
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// A place in a list: where the page before ended. `None`: at the beginning.
pub(super) fn page_after<P>(token: &str, parse: impl FnOnce(&str) -> Option<P>) -> Result<Option<P>, ApiError> {
    if token.is_empty() {
        return Ok(None);
    }
    parse(token).map(Some).ok_or_else(|| {
        let remedy = "send next_page_token as it was answered, or nothing for the first page";
        FieldError::new("page_token", token, "is none that this list makes", remedy).into()
    })
}

/// A place in a list of instances.
pub(super) fn instances_after(token: &str) -> Result<Option<InstanceId>, ApiError> {
    page_after(token, |token| InstanceId::parse_any(token).ok())
}

/// A place in a list of services.
pub(super) fn services_after(token: &str) -> Result<Option<ServiceName>, ApiError> {
    page_after(token, |token| ServiceName::parse(token).ok())
}

/// A place in the log of events: the revision before which to go on.
pub(super) fn events_before(token: &str) -> Result<Revision, ApiError> {
    Ok(page_after(token, |token| token.parse().ok())?.map_or(Revision(u64::MAX), Revision))
}

fn optional_lease(bytes: &[u8]) -> Result<Option<LeaseId>, ApiError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    LeaseId::from_bytes(bytes).map(Some).ok_or_else(|| {
        let remedy = "send the lease_id that Register answered, byte for byte";
        FieldError::without_value("lease_id", format!("has {} bytes where a lease has 16", bytes.len()), remedy).into()
    })
}

pub(super) fn span(field: &'static str, given: Option<&prost_types::Duration>) -> Result<Option<Duration>, ApiError> {
    given
        .map(|span| {
            // The contract's type could also say minus a second and two nanoseconds; no length of time needs to.
            let plain = u64::try_from(span.seconds).ok().zip(u32::try_from(span.nanos).ok());
            let plain = plain.filter(|(_, nanos)| *nanos < 1_000_000_000);
            plain.map(|(seconds, nanos)| Duration::new(seconds, nanos)).ok_or_else(|| {
                let value = format!("{}.{:09}s", span.seconds, span.nanos);
                FieldError::new(
                    field,
                    &value,
                    "is no length of time",
                    "give seconds and nanos, neither negative, nanos below 1000000000",
                )
                .into()
            })
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(result: Result<impl std::fmt::Debug, ApiError>) -> String {
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
    fn a_refusal_names_the_field() {
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
        for (field, asked) in cases {
            assert_eq!(refused(register(&asked, fresh)), field);
        }
        assert_eq!(
            refused(deregister(&pb::DeregisterRequest { lease_id: vec![1].into(), ..Default::default() })),
            "lease_id"
        );
    }

    #[test]
    fn an_update_needs_a_mask_of_known_fields() {
        let mask = |path: &str| Some(prost_types::FieldMask { paths: vec![path.into()] });
        let asked = pb::UpdateInstanceRequest { service: "web".into(), id: "a".into(), ..Default::default() };
        assert_eq!(refused(update(&asked)), "update_mask");
        let other = pb::UpdateInstanceRequest { update_mask: mask("addresses"), ..asked.clone() };
        assert_eq!(refused(update(&other)), "update_mask");
        let good = pb::UpdateInstanceRequest { update_mask: mask("draining"), draining: true, ..asked };
        assert!(matches!(update(&good), Ok(Command::Update { patch: Patch { draining: Some(true), .. }, .. })));
    }

    #[test]
    fn pages() {
        assert_eq!(page_size(0, 100), 100);
        assert_eq!(page_size(5_000, 100), 1_000);
        assert_eq!(refused(events_before("x")), "page_token");
    }
}
