//! Subsets and splits, read from a document.

use std::collections::BTreeMap;

use super::{
    Split, Subset, SubsetName,
    table_reader::{TableReader, nearest},
};
use crate::model::{FieldError, InstanceFilter};

/// Maximum number of subsets of a service. Each is a cluster, which clients subscribe to and connect to.
const MAX_SUBSETS: usize = 16;

/// Reads the subsets of a service.
pub(super) fn subsets(table: &TableReader<'_>) -> Result<BTreeMap<SubsetName, Subset>, FieldError> {
    const HINT: &str = "write a filter over instances, such as '\"v2\" in tags'";
    let mut subsets = BTreeMap::new();
    let Some(given) = table.table("subsets", "write a filter for each name, such as { v2 = '\"v2\" in tags' }")? else {
        return Ok(subsets);
    };
    for (number, name) in given.names().enumerate() {
        let place = given.place(name);
        let subset = SubsetName::parse(name).map_err(|error| error.with_field(place.clone()))?;
        if number == MAX_SUBSETS {
            let problem = format!("has more than {MAX_SUBSETS} entries");
            return Err(FieldError::without_value(table.place("subsets"), problem, "remove some subsets"));
        }
        let text = given.text(name, HINT)?.unwrap_or_default();
        let filter = InstanceFilter::parse(text)
            .map_err(|error| {
                given.error(name, format!("is invalid at column {}", error.column), error.kind.to_string())
            })?
            .ok_or_else(|| given.error(name, "selects the whole service", HINT))?;
        subsets.insert(subset, Subset { filter });
    }
    Ok(subsets)
}

/// Reads a split from the field `name` of a table, and the field `empty` beside it.
pub(super) fn split(
    table: &TableReader<'_>,
    name: &str,
    subsets: &BTreeMap<SubsetName, Subset>,
) -> Result<Option<Split>, FieldError> {
    let hint = "write a percentage for each subset, such as { v1 = 90, v2 = 10 }";
    let empty = table.choice("empty")?;
    let Some(given) = table.table(name, hint)? else {
        return match empty {
            None => Ok(None),
            Some(_) => Err(table.error("empty", format!("has no effect without {name}"), "remove it")),
        };
    };
    let mut shares = Vec::new();
    for subset in given.names() {
        let Some((known, _)) = subsets.get_key_value(subset) else {
            let similar = nearest(subset, subsets.keys().map(SubsetName::as_str));
            let hint = similar.map_or_else(|| "add it to subsets".to_owned(), |name| format!("write {name}"));
            return Err(given.error(subset, "is the percentage of a subset that does not exist", hint));
        };
        // Clients disagree on the meaning of a share of 0.
        if given.is_zero(subset) {
            return Err(given.error(subset, "is no share of the calls", "write 1 to 100, or leave the subset out"));
        }
        shares.extend(given.percent(subset, 1..=100)?.map(|share| (known.clone(), share)));
    }
    let sum: u32 = shares.iter().map(|(_, share)| u32::from(*share)).sum();
    match sum {
        100 => Ok(Some(Split { shares, empty: empty.unwrap_or_default() })),
        0 => Err(table.error(name, "is empty", "name a subset, or leave the field out for the whole service")),
        sum => Err(table.error(name, format!("sums to {sum}"), "change the percentages so that they sum to 100")),
    }
}
