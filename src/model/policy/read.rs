//! Policy of a service or of the defaults, read from a document and validated.

use std::collections::BTreeMap;

use super::{
    EffectivePolicy, PolicyDocument, PolicyScope, ServicePolicy, Split, Subset, SubsetName,
    read_route::routes,
    read_settings::{SETTING_FIELDS, settings},
    table_reader::{TableReader, nearest},
};
use crate::model::{FieldError, InstanceFilter, Revision, ServiceName};

/// Fields of a document that services have and the defaults have not.
const SERVICE_FIELDS: [&str; 5] = ["subsets", "default", "empty", "fallback", "route"];
/// Maximum number of subsets of a service. Each is a cluster, which clients subscribe to and connect to.
const MAX_SUBSETS: usize = 16;
/// Maximum number of services in `fallback`.
const MAX_FALLBACKS: usize = 8;

impl ServicePolicy {
    /// Validates a document. The result does not depend on other policies: [`EffectivePolicy::validate`] and
    /// [`fallback_chain`](super::fallback_chain) validate it together with them.
    ///
    /// # Errors
    ///
    /// When a field is unknown or invalid. The error names the first such field.
    pub fn from_document(scope: &PolicyScope, document: &PolicyDocument) -> Result<Self, FieldError> {
        let table = TableReader::of_document(&document.0);
        let policy = match scope {
            PolicyScope::Defaults => Self::defaults(&table)?,
            PolicyScope::Service(service) => Self::of_service(service, &table)?,
        };
        Ok(policy)
    }

    fn defaults(table: &TableReader<'_>) -> Result<Self, FieldError> {
        if let Some(name) = table.names().find(|name| SERVICE_FIELDS.contains(name)) {
            let problem = "is not a field of the defaults";
            return Err(FieldError::without_value(table.place(name), problem, "set it in the policy of a service"));
        }
        table.only(&SETTING_FIELDS)?;
        let policy = Self { settings: settings(table)?, ..Self::default() };
        // Services without a policy have the defaults only.
        EffectivePolicy::merge(None, Some(&policy), Revision(0)).validate()?;
        Ok(policy)
    }

    fn of_service(service: &ServiceName, table: &TableReader<'_>) -> Result<Self, FieldError> {
        table.only(&[&SETTING_FIELDS[..], &SERVICE_FIELDS[..]].concat())?;
        let settings = settings(table)?;
        let subsets = subsets(table)?;
        let default_split = split(table, "default", &subsets)?;
        let routes = routes(table, &subsets)?;
        if default_split.is_some()
            && let Some(at) = routes.iter().position(super::PolicyRoute::matches_all)
        {
            let problem = format!("has no effect, because route[{at}] has no conditions and matches every call");
            return Err(FieldError::without_value("default", problem, format!("remove it, or route[{at}]")));
        }
        Ok(Self { settings, subsets, default_split, fallback: fallback(service, table)?, routes })
    }
}

fn subsets(table: &TableReader<'_>) -> Result<BTreeMap<SubsetName, Subset>, FieldError> {
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
        match given.percent(subset, 0..=100)? {
            // Clients disagree on the meaning of a share of 0.
            Some(0) => {
                return Err(given.error(subset, "is no share of the calls", "write 1 to 100, or leave the subset out"));
            }
            share => shares.extend(share.map(|share| (known.clone(), share))),
        }
    }
    let sum: u32 = shares.iter().map(|(_, share)| u32::from(*share)).sum();
    match sum {
        100 => Ok(Some(Split { shares, empty: empty.unwrap_or_default() })),
        0 => Err(table.error(name, "is empty", "name a subset, or leave the field out for the whole service")),
        sum => Err(table.error(name, format!("sums to {sum}"), "change the percentages so that they sum to 100")),
    }
}

fn fallback(service: &ServiceName, table: &TableReader<'_>) -> Result<Vec<ServiceName>, FieldError> {
    const HINT: &str = "write names of services, such as [\"payments-dr\"]";
    let mut services = Vec::new();
    let Some(list) = table.list("fallback", HINT)? else { return Ok(services) };
    if list.len() > MAX_FALLBACKS {
        let problem = format!("has {} entries", list.len());
        return Err(list.error(problem, format!("name at most {MAX_FALLBACKS} services")));
    }
    for item in list.texts(HINT) {
        let (place, text) = item?;
        let name = ServiceName::parse(text).map_err(|error| error.with_field(place.clone()))?;
        let problem = if name == *service {
            "is the service itself"
        } else if services.contains(&name) {
            "occurs twice"
        } else {
            services.push(name);
            continue;
        };
        return Err(FieldError::new(place, text, problem, "remove it"));
    }
    Ok(services)
}
