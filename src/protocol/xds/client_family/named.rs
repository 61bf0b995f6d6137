//! Clients as operators name them: `go@1.85.0`.

use super::{ClientFamily, LibraryVersion};
use crate::model::FieldError;

/// Name of a library, name of its agents, and its name in texts.
const LIBRARIES: [(&str, &str, &str); 9] = [
    ("cpp", "gRPC C-core linux", "gRPC C++"),
    ("go", "gRPC Go", "gRPC Go"),
    ("java", "gRPC Java", "gRPC Java"),
    ("node", "gRPC Node Pure JS", "gRPC Node"),
    ("php", "gRPC C-core linux PHP", "gRPC PHP"),
    ("python", "gRPC C-core linux Python", "gRPC Python"),
    ("ruby", "gRPC C-core linux Ruby", "gRPC Ruby"),
    ("tonic", "gRPC Rust tonic-xds", "tonic-xds"),
    ("envoy", "envoy", "Envoy"),
];

/// Client that an operator names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocol::xds) struct NamedClient {
    /// Library and version: `gRPC Go 1.85.0`.
    pub(in crate::protocol::xds) agent: String,
    pub(in crate::protocol::xds) family: ClientFamily,
}

impl NamedClient {
    /// Parses the name of a library with its version after `@`. Envoy needs no version.
    ///
    /// # Errors
    ///
    /// When the library is unknown, or its version is missing or no version.
    pub(in crate::protocol::xds) fn parse(text: &str) -> Result<Self, FieldError> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let Some((_, agent_name, label)) = LIBRARIES.into_iter().find(|(known, ..)| *known == name) else {
            let names = LIBRARIES.map(|(known, ..)| known).join(", ");
            return Err(FieldError::new(
                "agent",
                text,
                "names no library",
                format!("use one of {names}, as in go@1.85.0"),
            ));
        };
        match version {
            None if name == "envoy" => Ok(Self { agent: label.to_owned(), family: ClientFamily::new(agent_name, "") }),
            None => {
                let hint = format!("add it after @, as in {name}@1.85.0");
                Err(FieldError::new("agent", text, "has no version", hint))
            }
            Some(version) if LibraryVersion::parse(version).is_none() => {
                let hint = format!("write numbers between dots, as in {name}@1.85.0");
                Err(FieldError::new("agent", text, "has an invalid version", hint))
            }
            Some(version) => {
                // Languages that use C-core name its version before their own.
                let agent_version = if agent_name.starts_with("gRPC C-core ") {
                    format!("C-core 0 {version}")
                } else {
                    version.to_owned()
                };
                let family = ClientFamily::new(agent_name, &agent_version);
                Ok(Self { agent: format!("{label} {version}"), family })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::ClientLibrary, *};

    #[test]
    fn named_client_is_of_the_family_of_its_library_and_version() {
        for (text, agent, name, version) in [
            ("go@1.85.0", "gRPC Go 1.85.0", "gRPC Go", "1.85.0"),
            ("go@1.44", "gRPC Go 1.44", "gRPC Go", "1.44.0"),
            ("java@1.40.0", "gRPC Java 1.40.0", "gRPC Java", "1.40.0"),
            ("python@1.51.3", "gRPC Python 1.51.3", "gRPC C-core linux Python", "C-core 29.0.0 Python 1.51.3"),
            ("cpp@1.85.1", "gRPC C++ 1.85.1", "gRPC C-core linux", "C-core 58.0.0 1.85.1"),
            ("php@1.56.0", "gRPC PHP 1.56.0", "gRPC C-core linux PHP", "C-core 33.0.0 PHP 1.56.0"),
            ("node@1.14.1", "gRPC Node 1.14.1", "gRPC Node Pure JS", "1.14.1"),
            ("tonic@0.1.0-alpha.4", "tonic-xds 0.1.0-alpha.4", "gRPC Rust tonic-xds", "0.1.0-alpha.4"),
            ("envoy", "Envoy", "envoy", ""),
            ("envoy@1.40.0", "Envoy 1.40.0", "envoy", "1.40.0"),
        ] {
            let expected = NamedClient { agent: agent.to_owned(), family: ClientFamily::new(name, version) };
            assert_eq!(NamedClient::parse(text), Ok(expected), "{text}");
        }
        assert!(LIBRARIES.iter().all(|(_, name, _)| ClientFamily::new(name, "").library() != ClientLibrary::Unknown));
    }

    #[test]
    fn unknown_library_and_invalid_version_are_errors_with_a_remedy() {
        for (text, part) in [
            ("swift@1.0", "use one of cpp, go, java, node, php, python, ruby, tonic, envoy"),
            ("Go@1.85.0", "names no library"),
            ("go", "go@1.85.0"),
            ("java@", "has an invalid version"),
            ("go@v1.85", "has an invalid version"),
        ] {
            let error = NamedClient::parse(text).unwrap_err();
            assert!(error.field == "agent" && error.to_string().contains(part), "{error}");
        }
    }
}
