//! One running copy of a service.

use std::{fmt, net::IpAddr, sync::Arc};

use super::{InstanceId, Invalid, Metadata, Revision, ServiceName, Tags, WallTime, label};

/// Most addresses of an instance.
const MOST_ADDRESSES: usize = 16;
/// Longest region, zone, sub-zone and name of an address, in bytes.
const LONGEST_LABEL: usize = 128;
/// Longest host name, in bytes.
const LONGEST_HOST: usize = 253;

/// One running copy of a service, as of one revision. It never changes: a change makes another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The service it belongs to.
    pub service: ServiceName,
    /// Unique within the service.
    pub id: InstanceId,
    /// Where it listens; at least one, the first is the primary.
    pub addresses: Box<[Address]>,
    /// Labels without a value.
    pub tags: Tags,
    /// Labels with a value.
    pub metadata: Metadata,
    /// Its share of the load beside its peers.
    pub weight: Weight,
    /// Where it runs.
    pub locality: Option<Arc<Locality>>,
    /// What its status is made of.
    pub marks: Marks,
    /// When this life of it began.
    pub registered_at: WallTime,
    /// The revision at which this life began.
    pub registered_revision: Revision,
    /// The revision of its last change.
    pub revision: Revision,
}

impl Instance {
    /// Whether it should be called.
    #[must_use]
    pub fn status(&self) -> Status {
        self.marks.status()
    }

    /// Whether readers see the same in both, their revisions aside.
    #[must_use]
    pub fn looks_like(&self, other: &Self) -> bool {
        self.addresses == other.addresses
            && self.tags == other.tags
            && self.metadata == other.metadata
            && self.weight == other.weight
            && self.locality == other.locality
            && self.status() == other.status()
            && self.registered_revision == other.registered_revision
    }
}

/// What the status of an instance is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is set and taken away by itself, by others, for another reason"
)]
pub struct Marks {
    /// It said that it is not ready yet.
    pub starting: bool,
    /// It said that it is going. Ends with this life of it.
    pub leaving: bool,
    /// An operator wants it to go. Outlives this life of it.
    pub drained: bool,
    /// Its lease is overdue, and protection does not believe it.
    pub suspect: bool,
}

impl Marks {
    /// The first that applies. What is starting is not to be called, and being suspected does not make it so.
    #[must_use]
    pub fn status(self) -> Status {
        if self.leaving || self.drained {
            Status::Draining
        } else if self.starting {
            Status::Starting
        } else if self.suspect {
            Status::Suspect
        } else {
            Status::Serving
        }
    }
}

/// Whether an instance should be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Ready.
    Serving,
    /// Its lease is overdue, with those of too many others to believe it. Still to be called.
    Suspect,
    /// Not ready yet.
    Starting,
    /// Asked to go.
    Draining,
    /// A check says that it does not work.
    Unhealthy,
}

impl Status {
    /// Its name in every door: `SERVING`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "SERVING",
            Self::Suspect => "SUSPECT",
            Self::Starting => "STARTING",
            Self::Draining => "DRAINING",
            Self::Unhealthy => "UNHEALTHY",
        }
    }

    /// Whether calls should go there, and whether it counts for the health of its service.
    #[must_use]
    pub fn counts(self) -> bool {
        matches!(self, Self::Serving | Self::Suspect)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A share of the load: 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(u16);

impl Weight {
    /// The weight of who names none.
    pub const USUAL: Self = Self(1);

    /// Takes a weight as given.
    ///
    /// # Errors
    ///
    /// When it is 0 or beyond 65535.
    pub fn parse(weight: u32) -> Result<Self, Invalid> {
        u16::try_from(weight).ok().filter(|weight| *weight > 0).map(Self).ok_or_else(|| {
            let remedy = "give 1 to 65535; to send an instance no calls, drain it";
            Invalid::new("weight", &weight.to_string(), "is out of range", remedy)
        })
    }

    /// The weight.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

/// One place at which an instance listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// An IP literal without brackets, or a host name.
    pub host: Box<str>,
    /// The port; 0 for none, which only doors of older protocols let in.
    pub port: u16,
    /// Tells several addresses apart. May be empty.
    pub name: Box<str>,
}

impl Address {
    /// Takes an address as given. A port is required here: 1 to 65535.
    ///
    /// # Errors
    ///
    /// When the host is neither an IP literal nor a host name, is one that nobody can call (`0.0.0.0`), the port is out
    /// of range, or the name is too long.
    pub fn parse(host: &str, port: u32, name: &str) -> Result<Self, Invalid> {
        let port = u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| {
            let remedy = "give the port on which the instance listens, 1 to 65535";
            Invalid::new("port", &port.to_string(), "is no port", remedy)
        })?;
        check_host(host)?;
        if !name.is_empty() {
            label::text("name", name, LONGEST_LABEL)?;
        }
        Ok(Self { host: host.into(), port, name: name.into() })
    }

    /// All addresses of an instance, from their parts: host, port, name.
    ///
    /// # Errors
    ///
    /// When there is none, there are more than 16, or one is refused.
    pub fn parse_all<'a>(
        given: impl ExactSizeIterator<Item = (&'a str, u32, &'a str)>,
    ) -> Result<Box<[Self]>, Invalid> {
        match given.len() {
            0 => Err(Invalid::unshown("addresses", "are empty", "give at least one host and port")),
            1..=MOST_ADDRESSES => given
                .enumerate()
                .map(|(at, (host, port, name))| {
                    Self::parse(host, port, name).map_err(|refusal| refusal.within(&format!("addresses[{at}]")))
                })
                .collect(),
            many => Err(Invalid::unshown("addresses", format!("are {many}"), "give at most 16")),
        }
    }
}

fn check_host(host: &str) -> Result<(), Invalid> {
    let remedy = "give an IP address without brackets, or a host name, that others can reach";
    let refused = |problem: &'static str| Err(Invalid::new("host", host, problem, remedy));
    if let Ok(address) = host.parse::<IpAddr>() {
        return if address.is_unspecified() { refused("is no address that can be called") } else { Ok(()) };
    }
    if host.is_empty() {
        return refused("is empty");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let dotted_number = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if host.len() > LONGEST_HOST || !host.bytes().all(allowed) || host.starts_with(['-', '.']) || dotted_number {
        return refused("is neither an IP address nor a host name");
    }
    Ok(())
}

/// Where an instance runs, from wide to narrow. Any part may be empty, not all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locality {
    /// For example `eu-west`.
    pub region: Box<str>,
    /// For example `eu-west-1a`.
    pub zone: Box<str>,
    /// For example a rack.
    pub sub_zone: Box<str>,
}

impl Locality {
    /// Takes a locality as given; `None` when all of it is empty.
    ///
    /// # Errors
    ///
    /// When a part is longer than 128 bytes or has a control character.
    pub fn parse(region: &str, zone: &str, sub_zone: &str) -> Result<Option<Arc<Self>>, Invalid> {
        let parts = [("locality.region", region), ("locality.zone", zone), ("locality.sub_zone", sub_zone)];
        if parts.iter().all(|(_, part)| part.is_empty()) {
            return Ok(None);
        }
        for (field, part) in parts {
            if !part.is_empty() {
                label::text(field, part, LONGEST_LABEL)?;
            }
        }
        Ok(Some(Arc::new(Self { region: region.into(), zone: zone.into(), sub_zone: sub_zone.into() })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_status_that_applies() {
        let mut marks = Marks::default();
        assert_eq!(marks.status(), Status::Serving);
        marks.suspect = true;
        assert_eq!(marks.status(), Status::Suspect);
        assert!(marks.status().counts(), "still to be called");
        marks.starting = true;
        assert_eq!(marks.status(), Status::Starting);
        marks.leaving = true;
        assert_eq!(marks.status(), Status::Draining);
        assert_eq!(Marks { drained: true, ..Marks::default() }.status(), Status::Draining);
    }

    #[test]
    fn addresses() {
        for good in ["10.0.0.1", "::1", "fe80::1", "web-1.internal", "localhost", "my_host"] {
            assert!(Address::parse(good, 80, "").is_ok(), "{good}");
        }
        for bad in ["", "0.0.0.0", "::", "[::1]", "a b", "300.1.1.1", "1.2.3", "-x", "http://x", "x\n"] {
            assert_eq!(Address::parse(bad, 80, "").unwrap_err().field, "host", "{bad}");
        }
        for port in [0, 65_536, u32::MAX] {
            assert_eq!(Address::parse("::1", port, "").unwrap_err().field, "port");
        }
        let refusal = Address::parse_all([("::1", 80, ""), ("::1", 0, "")].into_iter()).unwrap_err();
        assert_eq!(refusal.field, "addresses[1].port");
        assert!(Address::parse_all(std::iter::empty()).is_err());
        assert!(Address::parse_all([("::1", 80, ""); 17].into_iter()).is_err());
    }

    #[test]
    fn weights_and_localities() {
        assert!(Weight::parse(0).is_err());
        assert!(Weight::parse(65_536).is_err());
        assert_eq!(Weight::parse(65_535).unwrap().get(), 65_535);
        assert_eq!(Locality::parse("", "", ""), Ok(None));
        assert_eq!(&*Locality::parse("", "z", "").unwrap().unwrap().zone, "z");
        assert!(Locality::parse("", &"z".repeat(129), "").is_err());
    }
}
