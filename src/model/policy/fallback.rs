//! Services that take over the calls of a service one after the other.

use crate::model::{FieldError, ServiceName};

/// Maximum number of fallbacks on the way from a service to a fallback of its fallbacks.
pub const MAX_FALLBACK_DEPTH: usize = 4;
/// Maximum number of services that take over from one service. Each is a priority of its own in the answers to clients.
const MAX_CHAIN_SERVICES: usize = 16;

/// Returns the services that take over from a service, in this order: each fallback is followed by its own fallbacks. A service
/// that occurs several times is returned once, at its first place.
///
/// `fallbacks_of` returns the field `fallback` of the policy of a service. A change of this field is valid if this function
/// succeeds for the service and for each service whose chain includes it.
///
/// # Errors
///
/// When the chain has a cycle, more than [`MAX_FALLBACK_DEPTH`] steps or more than 16 services. The error names the way.
pub fn fallback_chain<'a>(
    service: &'a ServiceName,
    fallbacks_of: impl Fn(&ServiceName) -> &'a [ServiceName],
) -> Result<Vec<ServiceName>, FieldError> {
    let mut chain = Vec::new();
    extend(&mut chain, &mut vec![service], &fallbacks_of)?;
    Ok(chain)
}

/// Adds the fallbacks of the last service of `way`.
fn extend<'a>(
    chain: &mut Vec<ServiceName>,
    way: &mut Vec<&'a ServiceName>,
    fallbacks_of: &impl Fn(&ServiceName) -> &'a [ServiceName],
) -> Result<(), FieldError> {
    let Some(last) = way.last() else { return Ok(()) };
    for fallback in fallbacks_of(last) {
        let shown = || {
            let names = way.iter().map(|name| name.as_str()).chain([fallback.as_str()]);
            names.collect::<Vec<_>>().join(" -> ")
        };
        if way.contains(&fallback) {
            return Err(error(format!("makes a cycle: {}", shown()), "remove one of these fallbacks"));
        }
        if way.len() > MAX_FALLBACK_DEPTH {
            let problem = format!("makes a chain of more than {MAX_FALLBACK_DEPTH} fallbacks: {}", shown());
            return Err(error(problem, "remove one of these fallbacks"));
        }
        if !chain.contains(fallback) {
            if chain.len() == MAX_CHAIN_SERVICES {
                let first = way.first().map_or("", |name| name.as_str());
                let problem = format!("gives {first} more than {MAX_CHAIN_SERVICES} services that take over");
                return Err(error(problem, "remove fallbacks, of this service or of its fallbacks"));
            }
            chain.push(fallback.clone());
        }
        way.push(fallback);
        extend(chain, way, fallbacks_of)?;
        way.pop();
    }
    Ok(())
}

fn error(problem: String, hint: &'static str) -> FieldError {
    FieldError::without_value("fallback", problem, hint)
}
