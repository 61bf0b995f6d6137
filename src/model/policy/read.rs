//! Policy of a service or of the defaults, read from a document and validated.

use super::{
    PolicyDocument, PolicyRoute, PolicyScope, ServicePolicy,
    read_route::routes,
    read_settings::{SETTING_FIELDS, settings},
    read_subset::{split, subsets},
    table_reader::TableReader,
};
use crate::model::{FieldError, ServiceName};

/// Fields of a document that services have and the defaults have not.
const SERVICE_FIELDS: [&str; 5] = ["subsets", "default", "empty", "fallback", "route"];
/// Maximum number of services in `fallback`.
const MAX_FALLBACKS: usize = 8;

impl ServicePolicy {
    /// Validates a document by itself. [`EffectivePolicy::validate`](super::EffectivePolicy::validate) validates the policy of a service
    /// together with the defaults.
    ///
    /// # Errors
    ///
    /// When a field is unknown or invalid. The error names the first such field.
    pub fn from_document(scope: &PolicyScope, document: &PolicyDocument) -> Result<Self, FieldError> {
        let table = TableReader::of_document(&document.0);
        match scope {
            PolicyScope::Defaults => Self::defaults(&table),
            PolicyScope::Service(service) => Self::of_service(service, &table),
        }
    }

    fn defaults(table: &TableReader<'_>) -> Result<Self, FieldError> {
        if let Some(name) = table.names().find(|name| SERVICE_FIELDS.contains(name)) {
            let problem = "is not a field of the defaults";
            return Err(FieldError::without_value(table.place(name), problem, "set it in the policy of a service"));
        }
        table.only(&SETTING_FIELDS)?;
        Ok(Self { settings: settings(table)?, ..Self::default() })
    }

    fn of_service(service: &ServiceName, table: &TableReader<'_>) -> Result<Self, FieldError> {
        table.only(&[&SETTING_FIELDS[..], &SERVICE_FIELDS[..]].concat())?;
        let settings = settings(table)?;
        let subsets = subsets(table)?;
        let default_split = split(table, "default", &subsets)?;
        let routes = routes(table, &subsets)?;
        if default_split.is_some()
            && let Some(at) = routes.iter().position(PolicyRoute::matches_all)
        {
            let problem = format!("has no effect, because route[{at}] has no conditions and matches every call");
            return Err(FieldError::without_value("default", problem, format!("remove it, or route[{at}]")));
        }
        Ok(Self { settings, subsets, default_split, fallback: fallback(service, table)?, routes })
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
