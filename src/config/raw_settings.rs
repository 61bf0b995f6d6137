//! Settings as text, before anybody asked whether they make sense.

use std::collections::BTreeMap;

use super::key::{SettingKey, SettingOrigin};

/// What one place says: the text of each key that it has.
#[derive(Debug, Default)]
pub(super) struct RawSettings(BTreeMap<SettingKey, (String, SettingOrigin)>);

impl RawSettings {
    /// Notes that `key` is written as `text` at `origin`.
    pub(super) fn put(&mut self, key: SettingKey, text: String, origin: SettingOrigin) {
        self.0.insert(key, (text, origin));
    }

    /// The text of `key`, and where it is.
    pub(super) fn get(&self, key: SettingKey) -> Option<(&str, &SettingOrigin)> {
        self.0.get(&key).map(|(text, origin)| (text.as_str(), origin))
    }
}
