//! Settings as text, before anybody asked whether they make sense.

use std::collections::BTreeMap;

use super::key::{Key, Origin};

/// What one place says: the text of each key that it has.
#[derive(Debug, Default)]
pub(super) struct Written(BTreeMap<Key, (String, Origin)>);

impl Written {
    /// Notes that `key` is written as `text` at `origin`.
    pub(super) fn put(&mut self, key: Key, text: String, origin: Origin) {
        self.0.insert(key, (text, origin));
    }

    /// The text of `key`, and where it is.
    pub(super) fn get(&self, key: Key) -> Option<(&str, &Origin)> {
        self.0.get(&key).map(|(text, origin)| (text.as_str(), origin))
    }
}
