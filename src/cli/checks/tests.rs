use std::time::{Duration, SystemTime};

use super::{results::ResultView, *};
use crate::pb::callboard::v1::CheckResult;

fn report() -> CheckReport {
    let state = CheckState {
        id: "http".to_owned(),
        name: "the front page".to_owned(),
        kind: "http".to_owned(),
        status: CheckStatus::Warning.into(),
        revision: 7,
    };
    CheckReport { state: Some(state), output: "HTTP GET /: 429".to_owned(), results: Vec::new(), changes: 3 }
}

#[test]
fn check_view_has_kind_status_and_number_of_changes() {
    let view = CheckView::from(report());
    assert_eq!(view.cells(), ["http", "http", "WARNING", "3", "HTTP GET /: 429", "the front page", "7"]);
    assert_eq!(view.name(), "http");
    let json = output::json(&view, false).unwrap();
    assert!(json.starts_with(r#"{"id":"http","name":"the front page","kind":"http","status":"WARNING""#), "{json}");
}

#[test]
fn check_set_by_a_client_has_no_kind() {
    let view = CheckView::from(CheckReport { state: Some(CheckState::default()), ..CheckReport::default() });
    assert_eq!(view.cells()[1..5], ["-", "UNSPECIFIED", "0", "-"]);
    assert!(output::json(&view, false).unwrap().contains(r#""kind":null"#));
}

#[test]
fn result_view_has_time_and_duration() {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
    let probed = CheckResult {
        time: Some(time.into()),
        status: CheckStatus::Passing.into(),
        took: Duration::from_millis(12).try_into().ok(),
        output: "200 OK".to_owned(),
    };
    let reported = CheckResult { took: None, ..probed.clone() };
    let cells = ResultView::new("http", probed).cells();
    assert_eq!(cells, ["http", "1970-01-01T00:00:01.500Z", "PASSING", "0.012s", "200 OK"]);
    assert_eq!(ResultView::new("ttl", reported).cells()[3], "-");
}

#[test]
fn table_shows_the_beginning_of_the_output() {
    assert_eq!(abbreviate("fine\n"), "fine");
    assert_eq!(abbreviate("first\nsecond"), "first…");
    assert_eq!(abbreviate(""), "-");
    let long = abbreviate(&"é".repeat(200));
    assert_eq!((long.chars().count(), long.ends_with("é…")), (101, true));
}
