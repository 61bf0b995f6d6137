//! Families of clients: what the library of a client follows, and what it would reject.
//!
//! | library | `node.user_agent_name` | `node.user_agent_version` |
//! |---|---|---|
//! | C-core | `gRPC C-core linux`, with the language since 1.39: `gRPC C-core linux Python` | `C-core 29.0.0`, since 1.39 `C-core 58.0.0 Python 1.85.1` |
//! | Java | `gRPC Java` | `1.85.1` |
//! | Go | `gRPC Go` | `1.85.0` |
//! | Node | `gRPC Node Pure JS` | that of `@grpc/grpc-js-xds`: `1.14.1` |
//! | tonic-xds | `gRPC Rust tonic-xds` | `0.1.0-alpha.4` |
//! | Envoy | `envoy` | none |
//!
//! Clients of the same family get the same bytes. An unknown library gets what all libraries accept, and a version that
//! cannot be read is the oldest.

mod named;

use std::fmt;

use super::request::NodeIdentity;
pub(super) use named::NamedClient;

/// Client library, as far as its features differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ClientLibrary {
    /// C++, Python, Ruby.
    Core,
    /// C-core in PHP, whose processes do not count their requests together.
    Php,
    Java,
    Go,
    Node,
    Tonic,
    Envoy,
    Unknown,
}

impl ClientLibrary {
    /// Value of the label `library` in metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Php => "php",
            Self::Java => "java",
            Self::Go => "go",
            Self::Node => "node",
            Self::Tonic => "tonic",
            Self::Envoy => "envoy",
            Self::Unknown => "other",
        }
    }
}

/// Part of a policy that only some clients follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ClientFeature {
    /// `max_stream_duration` of a route.
    StreamDuration,
    /// `retry_policy` of a route.
    Retries,
    /// `max_requests` of a cluster.
    CircuitBreaker,
    /// Outlier detection by the percentage of failures.
    OutlierDetection,
    /// Ring hash, and the hash policies of routes. Other clients reject it.
    RingHash,
    /// The list `load_balancing_policy`, which takes precedence over `lb_policy`.
    PolicyList,
    /// Least request within the weights of localities.
    LeastRequest,
    /// Weights that the client computes from the load reports of endpoints.
    ClientSideWeights,
    /// Weights of localities.
    Localities,
    /// Priorities of localities: the way to a lower one, and back.
    Priorities,
    /// `drop_overloads` of an assignment.
    Drops,
    /// Reports of the load of a cluster whose `lrs_server` is `self`.
    LoadReports,
}

/// Version of a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LibraryVersion {
    major: u32,
    minor: u32,
    patch: u32,
    /// A pre-release is below the release with the same numbers.
    is_release: bool,
}

#[expect(clippy::unnecessary_wraps, reason = "the entries of the table are optional")]
const fn version(major: u32, minor: u32, patch: u32) -> Option<LibraryVersion> {
    Some(LibraryVersion { major, minor, patch, is_release: true })
}

/// All versions have the feature.
const ALL: Option<LibraryVersion> = Some(LibraryVersion { major: 0, minor: 0, patch: 0, is_release: false });
/// No version has the feature.
const NEVER: Option<LibraryVersion> = None;

impl ClientFeature {
    const EACH: [Self; 12] = [
        Self::StreamDuration,
        Self::Retries,
        Self::CircuitBreaker,
        Self::OutlierDetection,
        Self::RingHash,
        Self::PolicyList,
        Self::LeastRequest,
        Self::ClientSideWeights,
        Self::Localities,
        Self::Priorities,
        Self::Drops,
        Self::LoadReports,
    ];

    /// Returns the first version of a library that has the feature without an environment variable. `None`: no version has it.
    pub(super) fn since(self, library: ClientLibrary) -> Option<LibraryVersion> {
        //                         C-core            Java              Go                Node              tonic  Envoy
        let [core, java, go, node, tonic, envoy] = match self {
            Self::StreamDuration | Self::CircuitBreaker => {
                [version(1, 37, 1), version(1, 37, 1), version(1, 37, 0), version(1, 4, 0), NEVER, ALL]
            }
            Self::Retries => [version(1, 40, 0), version(1, 40, 1), version(1, 41, 0), version(1, 8, 0), ALL, ALL],
            Self::OutlierDetection => {
                // Java has it, and may lose calls with it.
                [version(1, 51, 0), NEVER, version(1, 50, 0), version(1, 7, 0), NEVER, ALL]
            }
            // C-core 1.50 to 1.52 crashes: https://github.com/grpc/grpc/issues/31766
            Self::RingHash => [version(1, 53, 0), version(1, 40, 1), version(1, 41, 0), version(1, 10, 0), NEVER, ALL],
            Self::PolicyList => {
                [version(1, 55, 0), version(1, 47, 0), version(1, 56, 0), version(1, 10, 0), NEVER, NEVER]
            }
            // tonic-xds balances in no other way.
            Self::LeastRequest => [NEVER, version(1, 48, 0), version(1, 73, 0), NEVER, ALL, ALL],
            Self::ClientSideWeights => [version(1, 55, 0), version(1, 54, 0), version(1, 56, 0), NEVER, NEVER, NEVER],
            // Before 1.48, grpc-go sends new endpoints to the priority in use only, and never returns to a higher one that was empty.
            Self::Priorities => [ALL, ALL, version(1, 48, 0), ALL, NEVER, ALL],
            Self::Localities | Self::Drops => [ALL, ALL, ALL, ALL, NEVER, ALL],
            // Envoy reports its load where its own configuration says so. tonic-xds never does.
            Self::LoadReports => [ALL, ALL, ALL, ALL, NEVER, NEVER],
        };
        match library {
            ClientLibrary::Php if self == Self::CircuitBreaker => NEVER,
            // Unknown clients get the endpoints that servers without policies send.
            ClientLibrary::Unknown if matches!(self, Self::Localities | Self::Priorities | Self::Drops) => ALL,
            ClientLibrary::Core | ClientLibrary::Php => core,
            ClientLibrary::Java => java,
            ClientLibrary::Go => go,
            ClientLibrary::Node => node,
            ClientLibrary::Tonic => tonic,
            ClientLibrary::Envoy => envoy,
            ClientLibrary::Unknown => NEVER,
        }
    }
}

/// Clients that get the same resources: a library with the same features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClientFamily {
    library: ClientLibrary,
    /// One bit for each feature.
    features: u16,
}

impl ClientFamily {
    /// Family of clients with an unknown library: they get what every client accepts.
    pub(super) const UNKNOWN: Self = Self {
        library: ClientLibrary::Unknown,
        features: ClientFeature::Localities.bit() | ClientFeature::Priorities.bit() | ClientFeature::Drops.bit(),
    };

    /// Returns the family of a client.
    pub(super) fn of(node: &NodeIdentity) -> Self {
        Self::new(&node.agent_name, &node.agent_version)
    }

    /// Returns the family of a library and its version, in the texts that the library sends.
    pub(super) fn new(agent_name: &str, agent_version: &str) -> Self {
        let (library, version) = match agent_name {
            "gRPC Java" => (ClientLibrary::Java, LibraryVersion::parse(agent_version)),
            "gRPC Go" => (ClientLibrary::Go, LibraryVersion::parse(agent_version)),
            "gRPC Node Pure JS" => (ClientLibrary::Node, LibraryVersion::parse(agent_version)),
            "gRPC Rust tonic-xds" => (ClientLibrary::Tonic, LibraryVersion::parse(agent_version)),
            // The features of Envoy do not depend on its version.
            "envoy" => (ClientLibrary::Envoy, ALL),
            _ => match agent_name.strip_prefix("gRPC C-core ") {
                Some(platform) if platform.ends_with(" PHP") => (ClientLibrary::Php, core_version(agent_version)),
                Some(_) => (ClientLibrary::Core, core_version(agent_version)),
                None => (ClientLibrary::Unknown, None),
            },
        };
        let version = version.or(ALL);
        let has = |feature: &ClientFeature| feature.since(library).is_some_and(|since| version >= Some(since));
        let features = ClientFeature::EACH.into_iter().filter(has).fold(0, |bits, feature| bits | feature.bit());
        Self { library, features }
    }

    /// Library of the clients.
    pub(super) fn library(self) -> ClientLibrary {
        self.library
    }

    /// Returns whether the clients have a feature.
    pub(super) fn has(self, feature: ClientFeature) -> bool {
        self.features & feature.bit() != 0
    }
}

impl ClientFeature {
    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl LibraryVersion {
    /// Parses a version: numbers between dots, and a suffix after `-` in a pre-release. Missing numbers are 0.
    fn parse(text: &str) -> Option<Self> {
        let (numbers, is_release) = match text.split_once('-') {
            Some((numbers, _)) => (numbers, false),
            None => (text, true),
        };
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        let [major, minor, patch] =
            [numbers.next()?, numbers.next().unwrap_or(Some(0)), numbers.next().unwrap_or(Some(0))];
        Some(Self { major: major?, minor: minor?, patch: patch?, is_release })
    }
}

impl fmt::Display for LibraryVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.patch {
            0 => write!(f, "{}.{}", self.major, self.minor),
            patch => write!(f, "{}.{}.{patch}", self.major, self.minor),
        }
    }
}

/// Major versions of C-core, with the first minor version of gRPC 1 that has it or a later one.
const CORE_VERSIONS: [(u32, u32); 9] =
    [(33, 56), (32, 55), (29, 51), (28, 50), (26, 48), (19, 42), (18, 39), (15, 36), (11, 31)];

/// Returns the version of gRPC from that of C-core: from the text after it, or the lowest that the version of C-core can be.
fn core_version(text: &str) -> Option<LibraryVersion> {
    let mut words = text.strip_prefix("C-core ")?.split(' ');
    let core = LibraryVersion::parse(words.next()?)?;
    if let Some(grpc) = words.filter_map(LibraryVersion::parse).next_back() {
        return Some(grpc);
    }
    let (_, minor) = CORE_VERSIONS.into_iter().find(|(major, _)| *major <= core.major)?;
    version(1, minor, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(agent_name: &str, agent_version: &str, feature: ClientFeature) -> bool {
        ClientFamily::new(agent_name, agent_version).has(feature)
    }

    #[test]
    fn library_is_told_by_the_name_of_the_agent() {
        for (name, library) in [
            ("gRPC C-core linux", ClientLibrary::Core),
            ("gRPC C-core linux Python", ClientLibrary::Core),
            ("gRPC C-core linux PHP", ClientLibrary::Php),
            ("gRPC Java", ClientLibrary::Java),
            ("gRPC Go", ClientLibrary::Go),
            ("gRPC Node Pure JS", ClientLibrary::Node),
            ("gRPC Rust tonic-xds", ClientLibrary::Tonic),
            ("envoy", ClientLibrary::Envoy),
            ("", ClientLibrary::Unknown),
            ("gRPC Swift", ClientLibrary::Unknown),
        ] {
            assert_eq!(ClientFamily::new(name, "1.85.0").library(), library, "{name}");
        }
    }

    #[test]
    fn feature_starts_with_its_first_version() {
        for (name, before, since, feature) in [
            ("gRPC Go", "1.72.3", "1.73.0", ClientFeature::LeastRequest),
            ("gRPC Go", "1.47.0", "1.48.0", ClientFeature::Priorities),
            ("gRPC Go", "1.73.0-dev", "1.74.0-dev", ClientFeature::LeastRequest),
            ("gRPC Java", "1.47.9", "1.48", ClientFeature::LeastRequest),
            ("gRPC Java", "1.40.0", "1.40.1", ClientFeature::Retries),
            ("gRPC Node Pure JS", "1.9.1", "1.10.0", ClientFeature::RingHash),
            ("gRPC C-core linux", "C-core 31.0.0", "C-core 32.0.0", ClientFeature::ClientSideWeights),
            ("gRPC C-core linux", "C-core 29.0.0", "C-core 32.0.0", ClientFeature::RingHash),
            (
                "gRPC C-core linux Python",
                "C-core 29.0.0 Python 1.51.3",
                "C-core 30.0.0 Python 1.53.0",
                ClientFeature::RingHash,
            ),
            ("gRPC C-core linux", "C-core 28.0.0", "C-core 29.0.0", ClientFeature::OutlierDetection),
        ] {
            assert!(!has(name, before, feature), "{name} {before}");
            assert!(has(name, since, feature), "{name} {since}");
        }
    }

    #[test]
    fn unknown_library_and_unreadable_version_get_what_all_versions_accept() {
        assert_eq!(ClientFamily::new("my client", "1.85.0"), ClientFamily::UNKNOWN);
        for version in ["", "v1.85", "1.x", "99999999999.0.0", "-"] {
            assert_eq!(ClientFamily::new("gRPC Go", version), ClientFamily::new("gRPC Go", "1.30.0"), "{version}");
        }
        let oldest = ClientFamily::new("gRPC C-core linux", "C-core 11.0.0");
        for version in ["", "58.0.0", "C-core", "C-core ", "C-core 9.0.0"] {
            assert_eq!(ClientFamily::new("gRPC C-core linux", version), oldest, "{version}");
        }
        assert!(!oldest.has(ClientFeature::StreamDuration) && oldest.has(ClientFeature::Localities));
    }

    #[test]
    fn clients_with_the_same_features_are_one_family() {
        assert_eq!(ClientFamily::new("gRPC Go", "1.85.0"), ClientFamily::new("gRPC Go", "1.86.1"));
        assert_ne!(ClientFamily::new("gRPC Go", "1.85.0"), ClientFamily::new("gRPC Go", "1.55.0"));
        assert_eq!(ClientFamily::new("envoy", ""), ClientFamily::new("envoy", "1.40.0"));
    }

    #[test]
    fn version_is_shown_without_a_patch_of_zero() {
        let shown = |feature: ClientFeature, library| feature.since(library).map(|since| since.to_string());
        assert_eq!(shown(ClientFeature::Retries, ClientLibrary::Java).as_deref(), Some("1.40.1"));
        assert_eq!(shown(ClientFeature::Retries, ClientLibrary::Core).as_deref(), Some("1.40"));
        assert_eq!(shown(ClientFeature::CircuitBreaker, ClientLibrary::Php), None);
    }
}
