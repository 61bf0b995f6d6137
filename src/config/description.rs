//! Descriptions of the settings, for the reference page: the flags' help texts, and the hints of the parsers.

use clap::{Arg, Args as _, Command};

use super::Config;
use super::args::ServeArgs;
use super::error::ConfigError;
use super::key::{SettingKey, SettingOrigin};
use super::raw_settings::RawSettings;

/// Description of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingDescription {
    /// Flag of `callboard serve`.
    pub flag: String,
    /// Environment variable.
    pub variable: String,
    /// Key in the configuration file. `None` for the path of the file itself.
    pub key: Option<&'static str>,
    /// Default value.
    pub default: String,
    /// Valid values, if there is a rule for them.
    pub values: Option<String>,
    /// Meaning of the setting.
    pub help: String,
}

/// Returns the description of every setting, in the order of `callboard serve --help`.
#[must_use]
pub fn descriptions() -> Vec<SettingDescription> {
    let command = ServeArgs::augment_args(Command::new("serve"));
    let described = |arg: &Arg| {
        let long = arg.get_long()?;
        let key = SettingKey::ALL.into_iter().find(|key| key.flag().strip_prefix("--") == Some(long))?;
        let (help, default) = split_default(&arg.get_help().map(ToString::to_string).unwrap_or_default());
        Some(SettingDescription {
            flag: key.flag(),
            variable: key.variable(),
            key: (key != SettingKey::Config).then(|| key.name()),
            default,
            values: values(key),
            help,
        })
    };
    command.get_arguments().filter_map(described).collect()
}

/// Splits a help text into its text and the default at its end.
fn split_default(help: &str) -> (String, String) {
    match help.rsplit_once(" [default: ") {
        Some((text, default)) => (text.to_owned(), default.trim_end_matches(']').to_owned()),
        None => (help.to_owned(), String::new()),
    }
}

/// Returns the valid values of a setting: the hint in the error of an empty value, which no setting accepts.
fn values(key: SettingKey) -> Option<String> {
    let mut settings = RawSettings::default();
    settings.put(key, String::new(), SettingOrigin::Flag(key.flag()));
    match Config::resolve(&[settings]) {
        Err(ConfigError::Value { error, .. }) => {
            Some(error.hint().strip_prefix("write ").unwrap_or(error.hint()).to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Defaults that are phrases, not values.
    const PHRASES: [&str; 9] = [
        "none",
        "one for each core",
        "four fifths of the file descriptors",
        "any address but link-local ones and those of cloud metadata",
        "the host name",
        "that of the listener, or 127.0.0.1",
        "generated at the first start",
        "those of the system",
        "IP addresses and localhost",
    ];
    /// Settings whose default is `None` in [`Config`], because it has exceptions, or because it needs another setting.
    const WITH_EXCEPTIONS: [&str; 4] = ["max_connections_per_address", "max_streams_per_address", "dns", "cluster"];

    #[test]
    fn every_setting_is_described() {
        let descriptions = descriptions();
        assert_eq!(descriptions.len(), SettingKey::ALL.len());
        for setting in descriptions {
            assert!(!setting.help.is_empty() && !setting.default.is_empty(), "{setting:?}");
            assert!(setting.values.is_some() || setting.key.is_none(), "{setting:?}");
        }
    }

    #[test]
    fn described_defaults_are_those_of_the_config() {
        let mut compared = 0;
        for setting in descriptions() {
            let Some(key) = setting.key.filter(|key| !WITH_EXCEPTIONS.contains(key)) else { continue };
            if PHRASES.contains(&setting.default.as_str()) {
                continue;
            }
            let text = format!("{key} = {:?}", setting.default);
            let config = super::super::from_text(std::path::Path::new("test.toml"), &text);
            assert_eq!(config.as_ref().ok(), Some(&Config::default()), "{text}: {config:?}");
            compared += 1;
        }
        assert!(compared >= 15, "{compared}");
    }
}
