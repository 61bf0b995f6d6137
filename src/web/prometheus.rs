//! Registered instances as targets of Prometheus: <https://prometheus.io/docs/prometheus/latest/http_sd/>.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};

use super::Web;
use crate::model::{Address, Instance, InstanceFilter, ServiceName};

/// Which instances; all are optional.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Only this service.
    service: Option<String>,
    /// Only instances that match, in the filter language.
    filter: Option<String>,
    /// The address of this name instead of the primary one; instances without it are left out.
    address: Option<String>,
}

/// One target and what Prometheus may relabel it by.
#[derive(Debug, Serialize)]
pub(super) struct Target {
    targets: [String; 1],
    labels: BTreeMap<String, String>,
}

/// `GET /prometheus/sd?service=NAME&filter=EXPRESSION&address=NAME`
pub(super) async fn targets(
    State(web): State<Web>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Vec<Target>>, (StatusCode, String)> {
    let refused = |error: &dyn std::fmt::Display| (StatusCode::BAD_REQUEST, format!("{error}\n"));
    let filter =
        InstanceFilter::parse(wanted.filter.as_deref().unwrap_or_default()).map_err(|error| refused(&error))?;
    let registry = web.shared.engine.registry();
    let services = match &wanted.service {
        Some(name) => vec![ServiceName::parse(name).map_err(|error| refused(&error))?],
        None => registry.each_service().map(|summary| summary.name).collect(),
    };
    let mut targets = Vec::new();
    for service in services {
        for entry in registry.blocks(&service).iter().flat_map(|block| block.entries()) {
            if filter.as_ref().is_none_or(|filter| filter.matches(&entry.instance)) {
                targets.extend(target(&entry.instance, wanted.address.as_deref()));
            }
        }
    }
    Ok(Json(targets))
}

fn target(instance: &Instance, address: Option<&str>) -> Option<Target> {
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
    Some(Target { targets: [host_and_port(address)], labels })
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
