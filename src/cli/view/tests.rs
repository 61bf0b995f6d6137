use std::collections::HashMap;

use super::*;
use crate::pb::callboard::v1::Locality;

/// Returns an instance with a value in every field.
pub(crate) fn full() -> Instance {
    Instance {
        service: "web".to_owned(),
        id: "a".to_owned(),
        addresses: vec![
            Address { host: "::1".to_owned(), port: 9001, name: String::new() },
            Address { host: "10.0.0.1".to_owned(), port: 9100, name: "metrics".to_owned() },
        ],
        tags: vec!["v2".to_owned(), "blue".to_owned()],
        metadata: HashMap::from([("team".to_owned(), "checkout".to_owned()), ("build".to_owned(), "7".to_owned())]),
        weight: 3,
        locality: Some(Locality { region: String::new(), zone: "eu-1a".to_owned(), sub_zone: String::new() }),
        status: InstanceStatus::Draining.into(),
        registered_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 }),
        registered_revision: 40,
        revision: 42,
        checks: Vec::new(),
    }
}

#[test]
fn instance_as_json_has_every_key_in_snake_case() {
    let json = serde_json::to_value(InstanceView::from(full())).unwrap();
    let expected = serde_json::json!({
        "service": "web",
        "id": "a",
        "host": "::1",
        "port": 9001,
        "addresses": [
            {"host": "::1", "port": 9001, "name": null},
            {"host": "10.0.0.1", "port": 9100, "name": "metrics"},
        ],
        "status": "DRAINING",
        "weight": 3,
        "tags": ["v2", "blue"],
        "metadata": {"build": "7", "team": "checkout"},
        "zone": "eu-1a",
        "region": null,
        "sub_zone": null,
        "registered_at": "2023-11-14T22:13:20.005Z",
        "registered_revision": 40,
        "revision": 42,
    });
    assert_eq!(json, expected);
}

#[test]
fn unset_fields_are_null_or_a_dash() {
    let bare = InstanceView::from(Instance::default());
    let json = serde_json::to_value(&bare).unwrap();
    for key in ["host", "port", "zone", "region", "sub_zone", "registered_at"] {
        assert!(json[key].is_null(), "{key}");
    }
    assert_eq!(bare.cells()[4..11], ["-"; 7]);
}

#[test]
fn row_has_a_cell_for_every_column() {
    let (narrow, wide) = InstanceView::COLUMNS;
    let cells = InstanceView::from(full()).cells();
    assert_eq!(cells.len(), narrow.len() + wide.len());
    assert_eq!(cells[1], "[::1]:9001");
    assert_eq!(cells[6], "build=7,team=checkout");
    assert_eq!(cells[9], "metrics=10.0.0.1:9100");
}

#[test]
fn enum_names_lose_their_prefixes() {
    assert_eq!(status(InstanceStatus::Serving), "SERVING");
    assert_eq!(known_status(InstanceStatus::Unspecified), None);
    assert_eq!(removal(RemovalReason::NoLongerMatches), "no_longer_matches");
}

#[test]
fn time_or_duration_out_of_range_is_none() {
    let never = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
    assert_eq!(time(Some(never)), None);
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    assert_eq!(duration(Some(negative)), None);
}
