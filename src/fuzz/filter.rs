//! Filters, evaluated on instances.

use std::collections::BTreeMap;

use crate::{
    model::{
        Address, Conditions, FieldError, Instance, InstanceFilter, InstanceId, Locality, Metadata, Revision,
        ServiceName, Tags, UnixMillis, Weight,
        filter::{MAX_DEPTH, MAX_LENGTH},
    },
    registry::test_support::entry,
};

thread_local! {
    static INSTANCES: Vec<Instance> = instances();
}

/// Parses any text. A valid filter must select the opposite after `not`, and the same when joined with itself by `and`.
pub(super) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let filter = match InstanceFilter::parse(text) {
        Ok(Some(filter)) => filter,
        Ok(None) => return assert!(text.trim().is_empty(), "no filter for a text that is not blank"),
        Err(error) => {
            let columns = text.trim().chars().count();
            assert!((1..=columns + 1).contains(&error.column), "{error} has a column outside the text");
            return assert!(error.to_string().len() < 1_000, "the error does not repeat the whole filter");
        }
    };
    assert_eq!(filter.as_str(), text.trim(), "the filter keeps its text");
    let text = filter.as_str(); // without the blanks around it, which may be of other kinds than those within
    let opposite = combined(&format!("not ({text})"));
    let twice = combined(&format!("({text}) and ({text})"));
    INSTANCES.with(|instances| {
        for instance in instances {
            let selected = filter.matches(instance);
            assert!(opposite.as_ref().is_none_or(|opposite| opposite.matches(instance) != selected));
            assert!(twice.as_ref().is_none_or(|twice| twice.matches(instance) == selected));
        }
    });
}

/// Parses a combination of valid filters. Returns `None` if it exceeds a limit.
fn combined(text: &str) -> Option<InstanceFilter> {
    let parentheses = text.bytes().filter(|byte| *byte == b'(').count();
    let within_limits = text.len() <= MAX_LENGTH && parentheses <= MAX_DEPTH && text.matches("matches").count() <= 8;
    match InstanceFilter::parse(text) {
        Ok(filter) => filter,
        Err(error) => {
            assert!(!within_limits, "{text:?}: {error}");
            None
        }
    }
}

fn instances() -> Vec<Instance> {
    let plain = entry("web", "a", 1).instance.clone();
    let rich = rich(&plain).unwrap_or_else(|error| panic!("{error}"));
    vec![plain, rich]
}

fn rich(plain: &Instance) -> Result<Instance, FieldError> {
    let metadata = BTreeMap::from(
        [("team", "checkout"), ("app.kubernetes.io/name", "web"), ("empty", ""), ("a/b~c", "ümlaut")]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    Ok(Instance {
        service: ServiceName::parse("web")?,
        id: InstanceId::parse("not-a-number-80")?,
        addresses: Address::parse_all([("::1", 80, ""), ("localhost", 81, "metrics")].into_iter())?,
        tags: Tags::parse(&["v2", "not", "a b", "\"quoted\"", "`ticked`"].map(str::to_owned))?,
        metadata: Metadata::parse(metadata.iter())?,
        weight: Weight::parse(80)?,
        locality: Locality::parse("eu", "eu-1", "a")?,
        checks: plain.checks.clone(),
        conditions: Conditions { operator_draining: true, ..plain.conditions },
        consul_registration: None,
        registered_at: UnixMillis(1),
        registered_revision: Revision(1),
        revision: Revision(2),
    })
}
