//! Client and call that an explanation is for.

use std::{collections::BTreeMap, sync::Arc};

use super::super::{client_family::NamedClient, source::ClientProfile};
use crate::{
    balancing::ZoneName,
    model::{FieldError, SubsetName},
    pb::callboard::v1 as pb,
};

/// Client and call that an explanation is for.
#[derive(Debug, Default)]
pub(super) struct ExplainedCall {
    /// Library of the client and its version. Empty: they are not known.
    pub(super) agent: String,
    pub(super) client: ClientProfile,
    /// Values of headers by their names in lower case.
    headers: BTreeMap<String, String>,
    /// Path of the method. `None`: it is not known.
    pub(super) method: Option<String>,
    /// Subset whose instances are asked for. `None`: those of the cluster with the largest share.
    pub(super) subset: Option<SubsetName>,
}

impl ExplainedCall {
    /// Parses the fields of a request.
    ///
    /// # Errors
    ///
    /// When a field is invalid.
    pub(super) fn parse(request: &pb::ExplainRequest) -> Result<Self, FieldError> {
        let named = if request.agent.is_empty() { None } else { Some(NamedClient::parse(&request.agent)?) };
        let family = named.as_ref().map_or(ClientProfile::default().family, |named| named.family);
        let subset = if request.subset.is_empty() { None } else { Some(SubsetName::parse(&request.subset)?) };
        Ok(Self {
            agent: named.map(|named| named.agent).unwrap_or_default(),
            client: ClientProfile { family, zone: parse_zone(&request.zone)? },
            headers: request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect(),
            method: parse_method(&request.method)?,
            subset,
        })
    }

    /// Returns the value of a header. `None`: the call does not have it.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Zone of the client as `region/zone`. Empty: it has named none.
    pub(super) fn zone(&self) -> String {
        let zone = self.client.zone.as_ref();
        zone.map(|zone| format!("{}/{}", zone.region, zone.zone)).unwrap_or_default()
    }
}

fn parse_zone(text: &str) -> Result<Option<Arc<ZoneName>>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    let parts = text.split_once('/').filter(|(_, zone)| !zone.contains('/'));
    let zone = parts.map(|(region, zone)| ZoneName::new(region, zone)).filter(ZoneName::is_named);
    match zone {
        Some(zone) => Ok(Some(Arc::new(zone))),
        None => Err(FieldError::new("zone", text, "is not a region and a zone", "write region/zone, as in eu/a")),
    }
}

fn parse_method(text: &str) -> Result<Option<String>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    let parts = text.strip_prefix('/').and_then(|path| path.split_once('/'));
    match parts {
        Some((service, method)) if !service.is_empty() && !method.is_empty() && !method.contains('/') => {
            Ok(Some(text.to_owned()))
        }
        Some(_) | None => {
            Err(FieldError::new("method", text, "is not the path of a method", "write /package.Service/Method"))
        }
    }
}
