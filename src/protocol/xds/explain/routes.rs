//! Routes of a policy, with regard to one call.

use std::time::Duration;

use super::{
    super::{cluster_name::clusters_of_split, route_resource::duration},
    call::ExplainedCall,
};
use crate::{
    model::{EffectivePolicy, HeaderMatch, MethodMatch, PolicyRoute, RetryPolicy, Split},
    pb::callboard::v1 as pb,
};

/// Returns the routes in order, the one of calls that no other matches last. Exactly one is taken.
pub(super) fn explained_routes(
    service: &str,
    policy: &EffectivePolicy,
    call: &ExplainedCall,
) -> Vec<pb::ExplainedRoute> {
    let unmet: Vec<_> = policy.routes.iter().map(|route| unmet_condition(route, call)).collect();
    let taken = unmet.iter().position(Option::is_none);
    let overtaken = |at: usize| taken.filter(|taken| *taken < at).map(|taken| format!("route[{taken}] matches first"));
    let routes = policy.routes.iter().zip(unmet).enumerate().map(|(at, (route, unmet))| pb::ExplainedRoute {
        field: format!("route[{at}]"),
        conditions: conditions(route),
        taken: taken == Some(at),
        reason: unmet.or_else(|| overtaken(at)).unwrap_or_default(),
        shares: shares(service, policy, route.split.as_ref()),
        timeout: timeout(route.timeout.unwrap_or(policy.timeout)),
        retries: retries(route.retry.as_ref().or(policy.retry.as_ref())),
        hash_header: route.hash_header.as_deref().unwrap_or_default().to_owned(),
    });
    let default = pb::ExplainedRoute {
        field: "default".to_owned(),
        conditions: Vec::new(),
        taken: taken.is_none(),
        reason: overtaken(policy.routes.len()).unwrap_or_default(),
        shares: shares(service, policy, policy.default_split.as_ref()),
        timeout: timeout(policy.timeout),
        retries: retries(policy.retry.as_ref()),
        hash_header: String::new(),
    };
    routes.chain([default]).collect()
}

/// Returns the conditions of a route in words.
fn conditions(route: &PolicyRoute) -> Vec<String> {
    let method = route.method.as_ref().map(|method| match method {
        MethodMatch::Exact(path) => format!("method is {path}"),
        MethodMatch::Service(prefix) => format!("method begins with {prefix}"),
    });
    let headers = route.headers.iter().map(|condition| {
        let name = &condition.name;
        match &condition.matches {
            HeaderMatch::Exact(value) => format!("header {name} is \"{value}\""),
            HeaderMatch::Present => format!("header {name} is present"),
            HeaderMatch::Absent => format!("header {name} is absent"),
            HeaderMatch::Regex(pattern) => format!("header {name} matches \"{pattern}\""),
        }
    });
    method.into_iter().chain(headers).collect()
}

/// Returns the reason for which a route does not match a call: what the call has in place of the first condition that does not hold.
fn unmet_condition(route: &PolicyRoute, call: &ExplainedCall) -> Option<String> {
    if let Some(method) = &route.method {
        match &call.method {
            None => return Some("the method of the call is not given".to_owned()),
            Some(path) if !method.matches(path) => return Some(format!("the method is {path}")),
            Some(_) => {}
        }
    }
    let unmet = route.headers.iter().find(|condition| !condition.matches.matches(call.header(&condition.name)))?;
    let name = &unmet.name;
    Some(match call.header(name) {
        None => format!("the call has no header {name}"),
        Some(value) => format!("the header {name} is \"{}\"", value.escape_debug()),
    })
}

fn shares(service: &str, policy: &EffectivePolicy, split: Option<&Split>) -> Vec<pb::ClusterShare> {
    let shares = clusters_of_split(service, policy, split).into_iter();
    shares.map(|(cluster, percent)| pb::ClusterShare { cluster: cluster.to_string(), percent }).collect()
}

fn timeout(limit: Duration) -> Option<prost_types::Duration> {
    (!limit.is_zero()).then(|| duration(limit))
}

fn retries(policy: Option<&RetryPolicy>) -> Option<pb::ExplainedRetries> {
    let policy = policy.filter(|policy| policy.attempts > 0)?;
    Some(pb::ExplainedRetries {
        attempts: policy.attempts.into(),
        on: policy.on.iter().map(|code| code.as_str().to_owned()).collect(),
        backoff: Some(duration(policy.backoff)),
        max_backoff: Some(duration(policy.max_backoff)),
    })
}
