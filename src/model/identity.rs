//! Ids of registrations made through Consul's API: one text for a node and an id on it.
//!
//! In Consul a service instance is identified by its node and its id there, and so is a check. The registry identifies an
//! instance by one [`InstanceId`], which this module makes of the two:
//!
//! | registration | id in the registry |
//! |---|---|
//! | id `web1` on the local node | `web1`, if the native API could register it; so both APIs share one id space |
//! | id `@web`, `web 1` or `wéb` on the local node | `@/@web`, `@/web%201`, `@/w%C3%A9b` |
//! | id `web` on node `N2` | `@n2/web` |
//! | node `N2` itself | `@n2` |
//! | the local node itself | `@` |
//!
//! Different identities have different ids: an id that starts with `@` cannot be registered natively, and what separates
//! node and id is escaped within the node. Node names that differ only in case are one name, as in Consul.

use std::{borrow::Cow, sync::Arc};

use super::{ConsulRegistration, FieldError, InstanceId, ServiceName, node_service};

/// First character of the ids that only this module makes.
pub(super) const RESERVED: char = '@';
/// Character between the node and the id.
const SEPARATOR: char = '/';
/// Id that versions before format 3 of the store gave to the local node.
const OLD_LOCAL_NODE: &str = "_agent";

/// Id of an instance or check that has this id on this node. `node`: empty for the local node.
#[must_use]
pub fn id_on_node<'a>(node: &str, id: &'a str) -> Cow<'a, str> {
    if node.is_empty() && InstanceId::parse(id).is_ok() {
        return Cow::Borrowed(id);
    }
    let mut text = String::with_capacity(2 + node.len() + id.len());
    text.push(RESERVED);
    escape(&folded(node), true, &mut text);
    text.push(SEPARATOR);
    escape(id, false, &mut text);
    Cow::Owned(text)
}

/// Id of a node among the nodes. `node`: empty for the local node.
#[must_use]
pub fn node_id(node: &str) -> Cow<'static, str> {
    if node.is_empty() {
        return Cow::Borrowed("@");
    }
    let mut text = String::with_capacity(1 + node.len());
    text.push(RESERVED);
    escape(&folded(node), true, &mut text);
    Cow::Owned(text)
}

/// Returns whether an instance with this id is on the node that has that id among the nodes.
#[must_use]
pub fn is_on_node(id: &str, node: &str) -> bool {
    let local = node.len() == RESERVED.len_utf8() && !id.starts_with(RESERVED);
    local || id.strip_prefix(node).is_some_and(|rest| rest.starts_with(SEPARATOR))
}

/// Returns whether two names are of one node: case does not count.
#[must_use]
pub fn same_node(one: &str, other: &str) -> bool {
    one == other || folded(one) == folded(other)
}

impl InstanceId {
    /// Id of an instance that has this id on this node. `node`: empty for the local node.
    #[must_use]
    pub fn on_node(node: &str, id: &str) -> Self {
        Self::made(&id_on_node(node, id))
    }

    /// Id of a node among the nodes. `node`: empty for the local node.
    #[must_use]
    pub fn of_node(node: &str) -> Self {
        Self::made(&node_id(node))
    }

    /// Id of a stored instance, made anew from what is stored of it: earlier versions stored ids of another form. A node
    /// that was stored without its name gets it.
    ///
    /// # Errors
    ///
    /// When the stored id is none that an instance could have.
    pub fn restored(
        service: &ServiceName,
        stored: &str,
        listing: Option<&mut Arc<ConsulRegistration>>,
    ) -> Result<Self, FieldError> {
        let Some(listing) = listing else { return Self::parse_any(stored) };
        if *service != node_service() {
            return Ok(Self::on_node(&listing.node, &listing.id));
        }
        let unnamed = listing.node.is_empty() && stored != OLD_LOCAL_NODE && *stored != *node_id("");
        if unnamed {
            Arc::make_mut(listing).node = stored.into();
        }
        Ok(Self::of_node(&listing.node))
    }
}

/// A node name in lower case, as Go's `strings.ToLower` does it: character by character.
fn folded(node: &str) -> Cow<'_, str> {
    if node.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return Cow::Borrowed(node);
    }
    Cow::Owned(node.chars().flat_map(char::to_lowercase).collect())
}

/// Appends a text as visible ASCII. What is escaped is written as in a URL.
fn escape(text: &str, separator_too: bool, to: &mut String) {
    for byte in text.bytes() {
        let plain = byte.is_ascii_graphic() && byte != b'%' && !(separator_too && char::from(byte) == SEPARATOR);
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
