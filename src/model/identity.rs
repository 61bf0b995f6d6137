//! Ids of registrations through the Consul API: one text for a node and an id on that node.
//!
//! In Consul a service instance is identified by its node and its id there, and so is a check. The registry identifies an
//! instance by one [`InstanceId`], which this module derives from both:
//!
//! | registration | id in the registry |
//! |---|---|
//! | id `web1` on the local node | `web1`, if the native API could register it; so both APIs share one id space |
//! | id `@web`, `web 1` or `wéb` on the local node | `@/@web`, `@/web%201`, `@/w%C3%A9b` |
//! | id `web` on node `N2` | `@n2/web` |
//! | node `N2` itself | `@n2` |
//! | the local node itself | `@` |
//!
//! Different identities have different ids: an id that starts with `@` cannot be registered natively, and the separator of node
//! and id is escaped in the name of the node. Node names that differ only in case are the same name, as in Consul.

use std::{borrow::Cow, sync::Arc};

use super::{ConsulRegistration, FieldError, InstanceId, ServiceName, name::RESERVED_PREFIX, node_service};

/// Separator of node and id.
const SEPARATOR: char = '/';
/// Id of the local node in stores of formats before 3.
const LOCAL_NODE_BEFORE_FORMAT_3: &str = "_agent";

/// Returns the id of an instance or a check that has this id on this node. An empty `node` is the local node.
#[must_use]
pub fn id_on_node<'a>(node: &str, id: &'a str) -> Cow<'a, str> {
    if node.is_empty() && InstanceId::parse(id).is_ok() {
        return Cow::Borrowed(id);
    }
    let mut text = String::with_capacity(2 + node.len() + id.len());
    text.push(RESERVED_PREFIX);
    escape(&lower_case(node), true, &mut text);
    text.push(SEPARATOR);
    escape(id, false, &mut text);
    Cow::Owned(text)
}

/// Returns the id of a node in the service of nodes. An empty `node` is the local node.
#[must_use]
pub fn node_id(node: &str) -> Cow<'static, str> {
    if node.is_empty() {
        return Cow::Borrowed("@");
    }
    let mut text = String::with_capacity(1 + node.len());
    text.push(RESERVED_PREFIX);
    escape(&lower_case(node), true, &mut text);
    Cow::Owned(text)
}

/// Returns whether an instance with this id is on the node with the id `node`, as [`node_id`] makes it.
#[must_use]
pub fn is_on_node(id: &str, node: &str) -> bool {
    let local = node.len() == RESERVED_PREFIX.len_utf8() && !id.starts_with(RESERVED_PREFIX);
    local || id.strip_prefix(node).is_some_and(|rest| rest.starts_with(SEPARATOR))
}

/// Returns whether two names are those of the same node, regardless of case.
#[must_use]
pub fn same_node(one: &str, other: &str) -> bool {
    one == other || lower_case(one) == lower_case(other)
}

impl InstanceId {
    /// Returns the id of an instance that has this id on this node. An empty `node` is the local node.
    #[must_use]
    pub fn on_node(node: &str, id: &str) -> Self {
        Self::unchecked(&id_on_node(node, id))
    }

    /// Returns the id of a node in the service of nodes. An empty `node` is the local node.
    #[must_use]
    pub fn of_node(node: &str) -> Self {
        Self::unchecked(&node_id(node))
    }

    /// Derives the id of a stored instance from its stored parts, because earlier versions stored ids of another form. Sets the name
    /// of a node that was stored without one.
    ///
    /// # Errors
    ///
    /// When no instance can have the stored id.
    pub fn from_stored(
        service: &ServiceName,
        stored: &str,
        registration: Option<&mut Arc<ConsulRegistration>>,
    ) -> Result<Self, FieldError> {
        let Some(registration) = registration else { return Self::parse_any(stored) };
        if *service != node_service() {
            return Ok(Self::on_node(&registration.node, &registration.id));
        }
        let unnamed = registration.node.is_empty() && stored != LOCAL_NODE_BEFORE_FORMAT_3 && *stored != *node_id("");
        if unnamed {
            Arc::make_mut(registration).node = stored.into();
        }
        Ok(Self::of_node(&registration.node))
    }
}

/// Returns a node name in lower case. Like Go's `strings.ToLower`, it converts each character by itself.
fn lower_case(node: &str) -> Cow<'_, str> {
    if node.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return Cow::Borrowed(node);
    }
    Cow::Owned(node.chars().flat_map(char::to_lowercase).collect())
}

/// Appends a text as visible ASCII, with other characters percent-encoded as in a URL.
fn escape(text: &str, escape_separator: bool, to: &mut String) {
    for byte in text.bytes() {
        let plain = byte.is_ascii_graphic() && byte != b'%' && !(escape_separator && char::from(byte) == SEPARATOR);
        if plain {
            to.push(char::from(byte));
        } else {
            let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0').to_ascii_uppercase();
            to.extend(['%', digit(byte >> 4), digit(byte & 0xf)]);
        }
    }
}

#[cfg(test)]
#[path = "identity/tests.rs"]
mod tests;
