use super::*;
use crate::cli::view::{InstanceView, tests::full};

fn table(wide: bool, change: impl Fn(&mut crate::pb::callboard::v1::Instance)) -> String {
    let mut instance = full();
    change(&mut instance);
    let mut out = anstream::StripStream::new(Vec::new());
    table::write(&mut out, &[InstanceView::from(instance)], wide).unwrap();
    String::from_utf8(out.into_inner()).unwrap()
}

fn stream(format: OutputFormat) -> String {
    let mut out = Vec::new();
    let view = serde_json::json!({"status": "SERVING"});
    write_one(&mut out, format, &view, Some("web/a"), Some("web/a is SERVING")).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn table_has_a_header_and_one_line_per_row() {
    let table = table(false, |_| {});
    let expected = "ID   ADDRESS      STATUS     WEIGHT   ZONE    TAGS\n\
                    a    [::1]:9001   DRAINING   3        eu-1a   v2,blue\n";
    assert_eq!(table, expected);
}

#[test]
fn wide_table_has_more_columns() {
    let table = table(true, |_| {});
    assert!(table.lines().next().unwrap().ends_with("REVISION   HOLDER"), "{table}");
    assert!(table.contains("build=7,team=checkout"), "{table}");
}

#[test]
fn only_the_status_column_is_coloured() {
    let mut out = Vec::new();
    let mut instance = full();
    instance.id = "DRAINING".to_owned();
    table::write(&mut out, &[InstanceView::from(instance)], false).unwrap();
    let row = String::from_utf8(out).unwrap();
    assert!(row.contains("\nDRAINING   [::1]:9001   \u{1b}[33mDRAINING\u{1b}[0m   3"), "{row:?}");
}

#[test]
fn control_characters_of_the_server_are_escaped() {
    let table = table(true, |instance| {
        instance.tags = vec!["\u{1b}]0;owned\u{7}".to_owned(), "a\nb".to_owned()];
        instance.metadata.insert("rtl".to_owned(), "\u{202e}abc".to_owned());
    });
    assert_eq!(table.lines().count(), 2, "{table:?}");
    assert!(table.contains(r"\u{1b}]0;owned\u{7},a\nb"), "{table:?}");
    assert!(table.contains(r"rtl=\u{202e}abc"), "{table:?}");
    assert!(!table.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{table:?}");
}

#[test]
fn stream_has_one_line_or_document_per_item() {
    assert_eq!(stream(OutputFormat::Json), "{\"status\":\"SERVING\"}\n");
    assert_eq!(stream(OutputFormat::Yaml), "---\nstatus: SERVING\n");
    assert_eq!(stream(OutputFormat::Name), "web/a\n");
    assert_eq!(stream(OutputFormat::Table), "web/a is SERVING\n");
}

#[test]
fn list_is_one_array() {
    let items = [InstanceView::from(full()), InstanceView::from(full())];
    let parsed: serde_json::Value = serde_json::from_str(&json(&items, true).unwrap()).unwrap();
    assert_eq!(parsed.as_array().unwrap().len(), 2);
    assert_eq!(json::<[InstanceView]>(&[], true).unwrap(), "[]");
    assert_eq!(yaml::<[InstanceView]>(&[]).unwrap(), "[]\n");
}
