//! Registered instances as targets for Prometheus: <https://prometheus.io/docs/prometheus/latest/http_sd/>.

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

/// Parameters of the request. All are optional.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TargetQuery {
    /// Name of the only service to include.
    service: Option<String>,
    /// Expression of the filter language that instances have to match.
    filter: Option<String>,
    /// Name of the address to use instead of the primary one. Instances without it are left out.
    address: Option<String>,
}

/// Target and its labels, which Prometheus can relabel.
#[derive(Debug, Serialize)]
pub(super) struct ScrapeTarget {
    targets: [String; 1],
    labels: BTreeMap<String, String>,
}

/// `GET /prometheus/sd?service=NAME&filter=EXPRESSION&address=NAME`
pub(super) async fn targets(
    State(pages): State<HttpPages>,
    Query(query): Query<TargetQuery>,
) -> Result<impl IntoResponse, (StatusCode, String)> {
    // Read before the targets. If the targets are newer, they are encoded again for the next client.
    let revision = pages.context.engine.registry().applied();
    // `Debug` quotes the values, so that no two queries have the same key.
    let text = format!("{query:?}");
    let key = ViewKey::new(View::PrometheusTargets, "", &text);
    let view = pages.context.views.at_revision(key, revision, || encode(&pages, &query).map(EncodedView::from))?;
    Ok(([(CONTENT_TYPE, "application/json")], view.bytes.clone()))
}

fn encode(pages: &HttpPages, query: &TargetQuery) -> Result<Bytes, (StatusCode, String)> {
    let invalid = |error: &dyn std::fmt::Display| (StatusCode::BAD_REQUEST, format!("{error}\n"));
    let filter = InstanceFilter::parse(query.filter.as_deref().unwrap_or_default()).map_err(|error| invalid(&error))?;
    let registry = pages.context.engine.registry();
    let services = match &query.service {
        Some(name) => vec![ServiceName::parse(name).map_err(|error| invalid(&error))?],
        None => registry.each_service().map(|summary| summary.name).collect(),
    };
    // One target at a time: all of them as values would take several times the memory of their encoding.
    let mut out = vec![b'['];
    for service in services {
        for entry in registry.chunks(&service).iter().flat_map(|chunk| chunk.entries()) {
            let matches = filter.as_ref().is_none_or(|filter| filter.matches(&entry.instance));
            let Some(target) = target(&entry.instance, query.address.as_deref()).filter(|_| matches) else { continue };
            if out.len() > 1 {
                out.push(b',');
            }
            serde_json::to_writer(&mut out, &target).map_err(|error| {
                (StatusCode::INTERNAL_SERVER_ERROR, format!("the targets cannot be encoded: {error}\n"))
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
    // Commas on both sides of each tag, as in Prometheus' other discovery mechanisms, so that a pattern can match one tag.
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

/// Replaces the characters that Prometheus does not allow in names of labels with `_`.
fn label_name(key: &str) -> String {
    key.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::test_support::entry;

    #[test]
    fn target_has_address_and_labels_of_its_instance() {
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
