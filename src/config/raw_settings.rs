//! Settings as text, before validation.

use std::collections::BTreeMap;

use super::key::{SettingKey, SettingOrigin};

/// Texts of the settings that one place has.
#[derive(Debug, Default)]
pub(super) struct RawSettings(BTreeMap<SettingKey, (String, SettingOrigin)>);

impl RawSettings {
    /// Stores the text of a setting and its origin.
    pub(super) fn put(&mut self, key: SettingKey, text: String, origin: SettingOrigin) {
        self.0.insert(key, (text, origin));
    }

    /// Returns the text of a setting and its origin.
    pub(super) fn get(&self, key: SettingKey) -> Option<(&str, &SettingOrigin)> {
        self.0.get(&key).map(|(text, origin)| (text.as_str(), origin))
    }
}
