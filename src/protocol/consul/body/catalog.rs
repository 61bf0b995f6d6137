//! Bodies of the catalog's endpoints: nodes, services and checks.

use std::{borrow::Cow, time::Duration};

use serde_json::{Map, Value as Json};

use super::{CheckRequest, ConsulError, Fields, Pair, ServiceRequest, object};
use crate::{
    model::{CheckDescription, MAX_DESCRIBED_OUTPUT_BYTES, Metadata},
    protocol::consul::view::go_duration,
};

/// Texts of a check's definition. The first name is the one in answers.
const TEXTS: [&[&str]; 13] = [
    &["HTTP"],
    &["TLSServerName", "tls_server_name"],
    &["Method"],
    &["Body"],
    &["TCP"],
    &["UDP"],
    &["GRPC"],
    &["H2PING", "h2ping"],
    &["OSService", "os_service"],
    &["AliasNode", "alias_node"],
    &["AliasService", "alias_service"],
    &["DockerContainerID", "docker_container_id"],
    &["Shell"],
];
/// Numbers of a check's definition.
const NUMBERS: [&[&str]; 2] = [&["OutputMaxSize", "output_max_size"], &["TTL"]];
/// Booleans of a check's definition.
const FLAGS: [&[&str]; 5] = [
    &["TLSSkipVerify", "tls_skip_verify"],
    &["DisableRedirects", "disable_redirects"],
    &["TCPUseTLS", "tcp_use_tls"],
    &["GRPCUseTLS", "grpc_use_tls"],
    &["H2PingUseTLS", "h2ping_use_tls"],
];
/// Durations of a check's definition.
const DURATIONS: [&[&str]; 3] =
    [&["Interval"], &["Timeout"], &["DeregisterCriticalServiceAfter", "deregister_critical_service_after"]];

/// Body of `catalog/register`.
#[derive(Debug)]
pub(crate) struct CatalogRegistration<'a> {
    pub(crate) datacenter: Cow<'a, str>,
    pub(crate) node: Cow<'a, str>,
    pub(crate) id: Cow<'a, str>,
    pub(crate) address: Cow<'a, str>,
    pub(crate) tagged_addresses: Vec<Pair<'a>>,
    pub(crate) meta: Metadata,
    pub(crate) skip_node_update: bool,
    pub(crate) service: Option<ServiceRequest<'a>>,
    pub(crate) checks: Vec<CheckRequest<'a>>,
}

impl<'a> CatalogRegistration<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, ConsulError> {
        let mut fields = object(bytes, "structs.RegisterRequest")?;
        let service =
            fields.nested(&["Service"], "structs.NodeService")?.map(ServiceRequest::in_catalog).transpose()?;
        let mut checks = Vec::new();
        if let Some(check) = fields.nested(&["Check"], "structs.HealthCheck")? {
            checks.extend(static_check(check)?);
        }
        for check in fields.list(&["Checks"], "structs.HealthCheck")? {
            checks.extend(static_check(check)?);
        }
        let (node, address) = (fields.text(&["Node"])?, fields.text(&["Address"])?);
        let meta = fields.map(&["NodeMeta", "node_meta"])?;
        let registration = Self {
            datacenter: fields.text(&["Datacenter"])?,
            id: fields.text(&["ID"])?,
            tagged_addresses: fields.map(&["TaggedAddresses", "tagged_addresses"])?,
            skip_node_update: fields.flag(&["SkipNodeUpdate", "skip_node_update"])?,
            meta: Metadata::parse_stored(meta.iter().map(|(key, value)| (key, value)))?,
            checks,
            node,
            address,
            service,
        };
        for known in ["Token", "WriteRequest", "PeerName", "Locality"] {
            fields.ignore(&[known]);
        }
        fields.end()?;
        if registration.node.is_empty() {
            return Err(ConsulError::Server("Must provide node".to_owned()));
        }
        if registration.address.is_empty() && !registration.skip_node_update {
            return Err(ConsulError::Server("Must provide address if SkipNodeUpdate is not set".to_owned()));
        }
        Ok(registration)
    }
}

/// Body of `catalog/deregister`.
#[derive(Debug)]
pub(crate) struct CatalogDeregistration<'a> {
    pub(crate) datacenter: Cow<'a, str>,
    pub(crate) node: Cow<'a, str>,
    pub(crate) service: Cow<'a, str>,
    pub(crate) check: Cow<'a, str>,
}

impl<'a> CatalogDeregistration<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, ConsulError> {
        let mut fields = object(bytes, "structs.DeregisterRequest")?;
        let request = Self {
            datacenter: fields.text(&["Datacenter"])?,
            node: fields.text(&["Node"])?,
            service: fields.text(&["ServiceID", "service_id"])?,
            check: fields.text(&["CheckID", "check_id"])?,
        };
        for known in ["Address", "Token", "WriteRequest", "PeerName"] {
            fields.ignore(&[known]);
        }
        fields.end()?;
        if request.node.is_empty() { Err(ConsulError::Server("Must provide node".to_owned())) } else { Ok(request) }
    }
}

/// Reads a check of the catalog. Its definition is stored and shown, but not run. `None`: all fields are null.
fn static_check(mut check: Fields<'_>) -> Result<Option<CheckRequest<'_>>, ConsulError> {
    if check.is_empty() {
        return Ok(None);
    }
    let output = check.text(&["Output"])?;
    let definition = check.nested(&["Definition"], "structs.HealthCheckDefinition")?;
    let description = CheckDescription {
        // As for checks that are run here, the beginning of a long output is kept.
        output: output[..output.floor_char_boundary(MAX_DESCRIBED_OUTPUT_BYTES)].into(),
        kind: check.text(&["Type"])?.into(),
        interval: check.text(&["Interval"])?.into(),
        timeout: check.text(&["Timeout"])?.into(),
        definition: definition.map(definition_text).transpose()?.unwrap_or_default(),
    };
    Ok(CheckRequest::of(check)?.map(|request| request.with_description(description)))
}

/// Returns the definition of a check as JSON, in Consul's order; empty if it has none.
fn definition_text(mut fields: Fields<'_>) -> Result<Box<str>, ConsulError> {
    let mut shown = Map::new();
    for names in DURATIONS {
        let span = fields.duration(names)?;
        if span != Duration::ZERO {
            shown.insert(names[0].to_owned(), go_duration(span).into());
        }
    }
    for names in TEXTS {
        let text = fields.text(names)?;
        if !text.is_empty() {
            shown.insert(names[0].to_owned(), text.into());
        }
    }
    for names in NUMBERS {
        if let Some(number) = fields.number(names)?.filter(|number| *number != 0) {
            shown.insert(names[0].to_owned(), number.into());
        }
    }
    for names in FLAGS {
        if fields.flag(names)? {
            shown.insert(names[0].to_owned(), true.into());
        }
    }
    let arguments = fields.texts(&["ScriptArgs", "script_args"])?;
    if !arguments.is_empty() {
        shown.insert("ScriptArgs".to_owned(), arguments.into_iter().map(Json::from).collect());
    }
    if let Some(headers) = fields.take(&["Header"]) {
        shown.insert("Header".to_owned(), headers.into_json());
    }
    fields.end()?;
    if shown.is_empty() { Ok(Box::default()) } else { Ok(Json::Object(shown).to_string().into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::consul::body::value::JsonValue;

    fn definition(text: &str) -> Result<String, String> {
        let fields = object(text.as_bytes(), "structs.HealthCheckDefinition").unwrap();
        definition_text(fields).map(String::from).map_err(|error| error.to_string())
    }

    #[test]
    fn definition_of_a_catalog_check_is_stored_with_consuls_names() {
        let given = r#"{"http":"http://a/","Interval":"90s","Timeout":2000000000,"Header":{"A":["b"]},"TLSSkipVerify":true,
            "Method":"","OutputMaxSize":7,"ScriptArgs":["x"],"deregister_critical_service_after":"1h"}"#;
        let kept = r#"{"DeregisterCriticalServiceAfter":"1h0m0s","HTTP":"http://a/","Header":{"A":["b"]},"Interval":"1m30s","OutputMaxSize":7,"ScriptArgs":["x"],"TLSSkipVerify":true,"Timeout":"2s"}"#;
        assert_eq!(definition(given).as_deref(), Ok(kept));
        assert_eq!(definition(r#"{"HTTP":"","Interval":"0s"}"#).as_deref(), Ok(""));
        assert_eq!(definition(kept).as_deref(), Ok(kept), "a definition in the form of answers is accepted");
        let unknown = definition(r#"{"Nope":1}"#).unwrap_err();
        assert_eq!(unknown, "Request decode failed: json: unknown field \"Nope\"");
    }

    #[test]
    fn value_of_any_type_is_converted_to_json() {
        let text = r#"{"a":[1,-2,1.5,null,true,{"b":"c"}],"d":{}}"#;
        let value: JsonValue<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(value.into_json().to_string(), text);
    }
}
