use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::pb::callboard::v1::{Address, InstanceStatus, Removal, RemovalReason, change::Change};

fn instance(id: &str, status: InstanceStatus) -> Instance {
    Instance {
        service: "web".to_owned(),
        id: id.to_owned(),
        addresses: vec![Address { host: "127.0.0.1".to_owned(), port: 9001, name: String::new() }],
        weight: 1,
        status: status.into(),
        revision: 5,
        ..Instance::default()
    }
}

fn removal_of(id: &str, reason: RemovalReason) -> Change {
    Change::Removed(Removal { service: "web".to_owned(), id: id.to_owned(), reason: reason.into(), revision: 9 })
}

fn changes(changes: Vec<Change>) -> WatchEvent {
    WatchEvent::Changes { changes, revision: 9 }
}

/// Returns the texts of the lines, without time and colour.
fn texts(lines: &mut WatchLines, event: WatchEvent) -> Vec<String> {
    let lines = lines.read(event, UNIX_EPOCH + Duration::from_millis(1_234));
    let texts = lines.iter().filter_map(|line| line.text().map(|text| anstream::adapter::strip_str(text).to_string()));
    texts.map(|text| text.strip_prefix("00:00:01.234Z ").unwrap().to_owned()).collect()
}

fn objects(lines: &mut WatchLines, event: WatchEvent) -> Vec<serde_json::Value> {
    let lines = lines.read(event, UNIX_EPOCH);
    lines.iter().map(|line| serde_json::to_value(line).unwrap()).collect()
}

#[test]
fn new_and_changed_instances_have_different_marks() {
    use InstanceStatus::{Draining, Serving};
    let mut lines = WatchLines::new(&["web".to_owned()], false);
    let snapshot = WatchEvent::Snapshot(vec![instance("a", Serving)]);
    assert_eq!(texts(&mut lines, snapshot), ["  web/a   127.0.0.1:9001   SERVING"]);
    let synced = WatchEvent::Synced { revision: 8 };
    assert_eq!(texts(&mut lines, synced), ["= synced: 1 instance at revision 8"]);
    let step = changes(vec![
        Change::Updated(instance("a", Draining)),
        Change::Updated(instance("b", Serving)),
        removal_of("c", RemovalReason::Expired),
    ]);
    let expected =
        ["~ web/a   127.0.0.1:9001   SERVING -> DRAINING", "+ web/b   127.0.0.1:9001   SERVING", "- web/c   expired"];
    assert_eq!(texts(&mut lines, step), expected);
}

#[test]
fn reset_clears_the_known_instances() {
    let mut lines = WatchLines::new(&["web".to_owned()], false);
    texts(&mut lines, WatchEvent::Snapshot(vec![instance("a", InstanceStatus::Serving)]));
    let reset = WatchEvent::Reset(ResetCause::OtherIncarnation);
    assert_eq!(texts(&mut lines, reset), ["! reset: other incarnation; a new snapshot follows"]);
    let synced = WatchEvent::Synced { revision: 8 };
    assert_eq!(texts(&mut lines, synced), ["= synced: 0 instances at revision 8"]);
}

#[test]
fn objects_have_the_documented_keys() {
    let mut lines = WatchLines::new(&["web".to_owned()], false);
    let snapshot = objects(&mut lines, WatchEvent::Snapshot(vec![instance("a", InstanceStatus::Serving)]));
    assert_eq!(snapshot[0]["type"], "snapshot");
    assert_eq!(snapshot[0]["instance"]["status"], "SERVING");
    assert_eq!(snapshot[0]["revision"], 5);
    let step = changes(vec![
        Change::Updated(instance("b", InstanceStatus::Serving)),
        removal_of("a", RemovalReason::NoLongerMatches),
    ]);
    let step = objects(&mut lines, step);
    assert_eq!((&step[0]["type"], &step[0]["instance"]["id"]), (&"changed".into(), &"b".into()));
    let removed = serde_json::json!({
        "type": "removed", "service": "web", "instance": {"id": "a"}, "reason": "no_longer_matches", "revision": 9,
    });
    assert_eq!(step[1], removed);
    let rest = [
        (WatchEvent::Synced { revision: 8 }, serde_json::json!({"type": "synced", "service": "web", "revision": 8})),
        (
            WatchEvent::Bookmark { revision: 8 },
            serde_json::json!({"type": "bookmark", "service": "web", "revision": 8}),
        ),
        (
            WatchEvent::Reset(ResetCause::Compacted),
            serde_json::json!({"type": "reset", "service": "web", "reason": "compacted", "revision": null}),
        ),
    ];
    for (event, expected) in rest {
        assert_eq!(objects(&mut lines, event), [expected]);
    }
}

#[test]
fn watch_of_several_services_has_no_service_of_its_own() {
    let mut lines = WatchLines::new(&["web".to_owned(), "pay".to_owned()], false);
    assert!(objects(&mut lines, WatchEvent::Synced { revision: 8 })[0]["service"].is_null());
    let one = objects(&mut lines, changes(vec![Change::Updated(instance("b", InstanceStatus::Serving))]));
    assert_eq!(one[0]["service"], "web");
}

#[test]
fn only_lines_of_instances_have_a_name() {
    let mut lines = WatchLines::new(&["web".to_owned()], false);
    let removed = lines.read(changes(vec![removal_of("a", RemovalReason::Expired)]), UNIX_EPOCH);
    assert_eq!(removed[0].name().as_deref(), Some("web/a"));
    assert_eq!(lines.read(WatchEvent::Synced { revision: 8 }, UNIX_EPOCH)[0].name(), None);
}

#[test]
fn control_characters_in_tags_are_escaped() {
    let mut lines = WatchLines::new(&[], true);
    let mut hostile = instance("a", InstanceStatus::Serving);
    hostile.tags = vec!["\u{1b}[2J\n".to_owned()];
    let text = texts(&mut lines, changes(vec![Change::Updated(hostile)])).concat();
    assert!(text.contains(r"tags=\u{1b}[2J\n"), "{text:?}");
}
