//! Registered instances as targets of Prometheus: <https://prometheus.io/docs/prometheus/latest/http_sd/>.

use std::collections::BTreeMap;

use axum::{
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::HttpPages;
use crate::{
    app::{EncodedView, View, ViewKey},
    model::{Address, Instance, InstanceFilter, ServiceName},
};

/// Which instances; all are optional.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TargetQuery {
    /// Only this service.
    service: Option<String>,
    /// Only instances that match, in the filter language.
    filter: Option<String>,
    /// The address of this name instead of the primary one; instances without it are left out.
    address: Option<String>,
}

/// One target and what Prometheus may relabel it by.
#[derive(Debug, Serialize)]
pub(super) struct ScrapeTarget {
    targets: [String; 1],
    labels: BTreeMap<String, String>,
}

/// `GET /prometheus/sd?service=NAME&filter=EXPRESSION&address=NAME`
pub(super) async fn targets(
    State(web): State<HttpPages>,
    Query(wanted): Query<TargetQuery>,
) -> Result<impl IntoResponse, (StatusCode, String)> {
    // Read before the targets, which may be newer: then they are encoded again for the next client.
    let revision = web.shared.engine.registry().applied();
    // Quoted, so that no two queries have the same text.
    let query = format!("{wanted:?}");
    let key = ViewKey::new(View::PrometheusTargets, "", &query);
    let view = web.shared.views.at_revision(key, revision, || encode(&web, &wanted).map(EncodedView::from))?;
    Ok(([(CONTENT_TYPE, "application/json")], view.bytes.clone()))
}

fn encode(web: &HttpPages, wanted: &TargetQuery) -> Result<Bytes, (StatusCode, String)> {
    let refused = |error: &dyn std::fmt::Display| (StatusCode::BAD_REQUEST, format!("{error}\n"));
    let filter =
        InstanceFilter::parse(wanted.filter.as_deref().unwrap_or_default()).map_err(|error| refused(&error))?;
    let registry = web.shared.engine.registry();
    let services = match &wanted.service {
        Some(name) => vec![ServiceName::parse(name).map_err(|error| refused(&error))?],
        None => registry.each_service().map(|summary| summary.name).collect(),
    };
    // One target at a time: all of them as values would take several times the memory of the answer.
    let mut out = vec![b'['];
    for service in services {
        for entry in registry.chunks(&service).iter().flat_map(|block| block.entries()) {
            let matches = filter.as_ref().is_none_or(|filter| filter.matches(&entry.instance));
            let Some(target) = target(&entry.instance, wanted.address.as_deref()).filter(|_| matches) else { continue };
            if out.len() > 1 {
                out.push(b',');
            }
            serde_json::to_writer(&mut out, &target).map_err(|error| {
                (StatusCode::INTERNAL_SERVER_ERROR, format!("the targets cannot be written: {error}\n"))
            })?;
        }
    }
    out.push(b']');
    Ok(out.into_boxed_slice().into())
}

fn target(instance: &Instance, address: Option<&str>) -> Option<ScrapeTarget> {
    let address = match address {
        Some(name) => instance.addresses.iter().find(|address| *address.name == *name),
        None => instance.addresses.first(),
    }?;
    let mut labels = BTreeMap::new();
    let mut label = |name: &str, value: String| labels.insert(format!("__meta_callboard_{name}"), value);
    label("service", instance.service.to_string());
    label("instance_id", instance.id.to_string());
    label("status", instance.status().to_string());
    label("weight", instance.weight.get().to_string());
    // Commas around each, as in Prometheus' own lists: so that a pattern can match one whole.
    let tags = instance.tags.iter().fold(String::new(), |list, tag| list + "," + tag);
    label("tags", if tags.is_empty() { tags } else { tags + "," });
    if let Some(locality) = &instance.locality {
        label("region", locality.region.to_string());
        label("zone", locality.zone.to_string());
        label("sub_zone", locality.sub_zone.to_string());
    }
    for (key, value) in instance.metadata.iter() {
        label(&format!("metadata_{}", label_name(key)), value.to_owned());
    }
    Some(ScrapeTarget { targets: [host_and_port(address)], labels })
}

fn host_and_port(address: &Address) -> String {
    if address.host.contains(':') {
        format!("[{}]:{}", address.host, address.port)
    } else {
        format!("{}:{}", address.host, address.port)
    }
}

/// Prometheus allows letters, digits and `_` in names of labels.
fn label_name(key: &str) -> String {
    key.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::test_support::entry;

    #[test]
    fn a_target_has_an_address_and_labels() {
        let mut instance = entry("web", "a", 3).instance.clone();
        let found = target(&instance, None).unwrap();
        assert_eq!(found.targets, ["10.0.0.1:80"]);
        assert_eq!(found.labels["__meta_callboard_service"], "web");
        assert_eq!(found.labels["__meta_callboard_tags"], "");
        assert!(target(&instance, Some("metrics")).is_none());
        instance.addresses = [Address { host: "::1".into(), port: 9, name: "metrics".into() }].into();
        assert_eq!(target(&instance, Some("metrics")).unwrap().targets, ["[::1]:9"]);
        assert_eq!(label_name("app.kubernetes.io/name"), "app_kubernetes_io_name");
    }
}
