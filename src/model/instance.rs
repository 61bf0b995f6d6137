//! One running copy of a service.

use std::{fmt, net::IpAddr, sync::Arc};

use super::{
    CheckStatus, ConsulRegistration, FieldError, InstanceChecks, InstanceId, Metadata, Revision, ServiceName, Tags,
    UnixMillis, label,
};

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
    /// What is found out about it, again and again.
    pub checks: InstanceChecks,
    /// What its status is made of beside those.
    pub conditions: Conditions,
    /// What it said in Consul's words. `None`: it spoke ours.
    pub consul_registration: Option<Arc<ConsulRegistration>>,
    /// When this life of it began.
    pub registered_at: UnixMillis,
    /// The revision at which this life began.
    pub registered_revision: Revision,
    /// The revision of its last change.
    pub revision: Revision,
}

impl Instance {
    /// Whether it should be called: the first that applies. What is starting is not to be called, and being suspected does not
    /// make it so. A check that has never passed finds an instance that starts.
    #[must_use]
    pub fn status(&self) -> Status {
        let Conditions {
            starting,
            self_draining: leaving,
            operator_draining: drained,
            suspect,
            was_healthy: proved,
            node_drained,
            node_critical,
            ..
        } = self.conditions;
        let critical = self.checks.aggregate_status() == CheckStatus::Critical;
        if leaving || drained || node_drained {
            Status::Draining
        } else if node_critical || critical && proved {
            Status::Unhealthy
        } else if starting || critical {
            Status::Starting
        } else if suspect {
            Status::Suspect
        } else {
            Status::Serving
        }
    }

    /// Its share of the load as things are: less, where that was asked for, while a check warns.
    #[must_use]
    pub fn effective_weight(&self) -> Weight {
        match &self.consul_registration {
            Some(listing) if self.checks.aggregate_status() == CheckStatus::Warning => {
                Weight(listing.warning_weight.max(1))
            }
            _ => self.weight,
        }
    }
}

/// What the status of an instance is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is set and taken away by itself, by others, for another reason"
)]
pub struct Conditions {
    /// It said that it is not ready yet.
    pub starting: bool,
    /// It said that it is going. Ends with this life of it.
    pub self_draining: bool,
    /// An operator wants it to go. Outlives this life of it.
    pub operator_draining: bool,
    /// Its lease is overdue, and protection does not believe it.
    pub suspect: bool,
    /// There was a moment when none of its checks was critical.
    pub was_healthy: bool,
    /// An operator wants the node to go that it is on.
    pub node_drained: bool,
    /// A check says that the node does not work that it is on.
    pub node_critical: bool,
    /// A check warns of it.
    pub node_warning: bool,
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
    pub fn is_routable(self) -> bool {
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
    pub const DEFAULT: Self = Self(1);

    /// Takes a weight as given.
    ///
    /// # Errors
    ///
    /// When it is 0 or beyond 65535.
    pub fn parse(weight: u32) -> Result<Self, FieldError> {
        u16::try_from(weight).ok().filter(|weight| *weight > 0).map(Self).ok_or_else(|| {
            let remedy = "give 1 to 65535; to send an instance no calls, drain it";
            FieldError::new("weight", &weight.to_string(), "is out of range", remedy)
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
    pub fn parse(host: &str, port: u32, name: &str) -> Result<Self, FieldError> {
        if port == 0 {
            let remedy = "give the port on which the instance listens, 1 to 65535";
            return Err(FieldError::new("port", "0", "is no port", remedy));
        }
        Self::with_any_port(host, port, name)
    }

    /// As [`Address::parse`], where 0 stands for no port, as in Consul.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn with_any_port(host: &str, port: u32, name: &str) -> Result<Self, FieldError> {
        let port = u16::try_from(port).map_err(|_| {
            let remedy = "give the port on which the instance listens, 1 to 65535";
            FieldError::new("port", &port.to_string(), "is no port", remedy)
        })?;
        check_host(host)?;
        if !name.is_empty() {
            label::text("name", name, LONGEST_LABEL)?;
        }
        Ok(Self { host: host.into(), port, name: name.into() })
    }

    /// All addresses of an instance, as they were kept; without a port, where it was registered in Consul's words.
    ///
    /// # Errors
    ///
    /// As [`Address::parse_all`].
    pub fn parse_all_stored<'a>(
        given: impl ExactSizeIterator<Item = (&'a str, u32, &'a str)>,
    ) -> Result<Box<[Self]>, FieldError> {
        Self::all(given, Self::with_any_port)
    }

    /// All addresses of an instance, from their parts: host, port, name.
    ///
    /// # Errors
    ///
    /// When there is none, there are more than 16, or one is refused.
    pub fn parse_all<'a>(
        given: impl ExactSizeIterator<Item = (&'a str, u32, &'a str)>,
    ) -> Result<Box<[Self]>, FieldError> {
        Self::all(given, Self::parse)
    }

    fn all<'a>(
        given: impl ExactSizeIterator<Item = (&'a str, u32, &'a str)>,
        parse: impl Fn(&str, u32, &str) -> Result<Self, FieldError>,
    ) -> Result<Box<[Self]>, FieldError> {
        match given.len() {
            0 => Err(FieldError::without_value("addresses", "are empty", "give at least one host and port")),
            1..=MOST_ADDRESSES => given
                .enumerate()
                .map(|(at, (host, port, name))| {
                    parse(host, port, name).map_err(|refusal| refusal.within(&format!("addresses[{at}]")))
                })
                .collect(),
            many => Err(FieldError::without_value("addresses", format!("are {many}"), "give at most 16")),
        }
    }
}

fn check_host(host: &str) -> Result<(), FieldError> {
    let remedy = "give an IP address without brackets, or a host name, that others can reach";
    let refused = |problem: &'static str| Err(FieldError::new("host", host, problem, remedy));
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
    pub fn parse(region: &str, zone: &str, sub_zone: &str) -> Result<Option<Arc<Self>>, FieldError> {
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
    use crate::{
        model::{Check, CheckDefinition, CheckId, Probe},
        registry::test_support::entry,
    };

    #[test]
    fn the_first_status_that_applies() {
        let mut instance = entry("web", "a", 1).instance.clone();
        assert_eq!(instance.status(), Status::Serving);
        instance.conditions.suspect = true;
        assert_eq!(instance.status(), Status::Suspect);
        assert!(instance.status().is_routable(), "still to be called");
        instance.conditions.starting = true;
        assert_eq!(instance.status(), Status::Starting);
        instance.conditions.node_critical = true;
        assert_eq!(instance.status(), Status::Unhealthy);
        instance.conditions.self_draining = true;
        assert_eq!(instance.status(), Status::Draining);
        for conditions in [
            Conditions { operator_draining: true, ..Conditions::default() },
            Conditions { node_drained: true, ..Conditions::default() },
        ] {
            assert_eq!(Instance { conditions, ..instance.clone() }.status(), Status::Draining);
        }
    }

    #[test]
    fn checks_make_it_start_serve_weigh_less_and_fail() {
        let mut instance = entry("web", "a", 5).instance.clone();
        let mut says = |verdict, proved| {
            let definition = CheckDefinition::new(CheckId::parse("c").unwrap(), "c", Probe::Ttl);
            instance.checks = InstanceChecks::new(vec![Check::new(definition.into(), verdict)]).unwrap();
            instance.conditions.was_healthy = proved;
            instance.consul_registration =
                Some(ConsulRegistration { warning_weight: 2, ..ConsulRegistration::default() }.into());
            (instance.status(), instance.effective_weight().get())
        };
        assert_eq!(says(CheckStatus::Critical, false), (Status::Starting, 5));
        assert_eq!(says(CheckStatus::Passing, true), (Status::Serving, 5));
        assert_eq!(says(CheckStatus::Warning, true), (Status::Serving, 2));
        assert_eq!(says(CheckStatus::Critical, true), (Status::Unhealthy, 5));
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
