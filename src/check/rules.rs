//! Where probes may go.
//!
//! A check has this process make connections that somebody else has asked for. Where only this machine can ask, they may go
//! wherever it could go itself, but for addresses that answer whoever asks with secrets. Where others can ask, checks are off until
//! an operator says where they may go, and then each goes to the instance's own address.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::model::{Invalid, Probe};

/// Where clouds tell secrets, beside link-local addresses.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
];

/// Where probes may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Others than this machine can ask for checks.
    pub exposed: bool,
    /// Where an operator lets them go. Empty: nothing was said.
    pub allowed: Vec<IpNet>,
}

impl Rules {
    /// Whether a check may be registered, of an instance with these addresses. Where a name leads is seen when the probe is made.
    pub(super) fn admit(&self, probe: &Probe, own: &BTreeSet<&str>) -> Result<(), Invalid> {
        if !probe.is_active() {
            return Ok(());
        }
        let host = host(probe);
        if self.exposed && self.allowed.is_empty() {
            let problem = "cannot be made: other machines can ask for checks here";
            let remedy = "have the registry started with --check-allow and the networks that its checks may go to, as 10.0.0.0/8";
            return Err(Invalid::new("check", &host, problem, remedy));
        }
        if self.exposed && !own.contains(host.as_str()) {
            let remedy = "check an address that the instance is registered with";
            return Err(Invalid::new("check", &host, "is not the instance's own address", remedy));
        }
        let Ok(address) = host.parse() else { return Ok(()) };
        self.permit(address).map_err(|why| Invalid::new("check", &host, why, "check another address"))
    }

    /// Whether a probe may connect to this address.
    pub(super) fn permit(&self, address: IpAddr) -> Result<(), &'static str> {
        let address = address.to_canonical();
        let link_local = match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        if link_local || address.is_multicast() || address.is_unspecified() || METADATA.contains(&address) {
            return Err("is an address that no check goes to: link-local, multicast, or one that tells secrets");
        }
        if !self.allowed.is_empty() && !self.allowed.iter().any(|network| network.contains(&address)) {
            return Err("is in none of the networks of --check-allow");
        }
        Ok(())
    }
}

/// The host that a probe goes to.
fn host(probe: &Probe) -> String {
    match probe {
        Probe::Http { url, .. } => {
            let authority = url.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next());
            let authority = authority.unwrap_or_default();
            match authority.strip_prefix('[') {
                Some(rest) => rest.split(']').next().unwrap_or_default().to_owned(),
                None => authority.split(':').next().unwrap_or_default().to_owned(),
            }
        }
        Probe::Tcp { target, .. } | Probe::Grpc { target, .. } => target.host.to_string(),
        Probe::Ttl | Probe::Stated => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ProbeTls, Target};

    fn get(url: &str) -> Probe {
        Probe::Http { url: url.into(), headers: Box::default(), tls: ProbeTls::default() }
    }

    #[test]
    fn secrets_are_never_asked_for() {
        for rules in [Rules::default(), Rules { exposed: false, allowed: vec!["0.0.0.0/0".parse().unwrap()] }] {
            for bad in
                ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200", "0.0.0.0"]
            {
                assert!(rules.permit(bad.parse().unwrap()).is_err(), "{bad}");
            }
            assert!(rules.permit("127.0.0.1".parse().unwrap()).is_ok());
        }
        assert!(Rules::default().admit(&get("http://[fe80::1]:80/"), &BTreeSet::new()).is_err());
        assert!(Rules::default().admit(&get("http://169.254.169.254/latest"), &BTreeSet::new()).is_err());
    }

    #[test]
    fn who_may_be_asked_by_others_asks_only_where_it_was_told() {
        let own = BTreeSet::from(["10.0.0.1", "web.internal"]);
        let off = Rules { exposed: true, allowed: Vec::new() };
        assert!(off.admit(&get("http://10.0.0.1/"), &own).is_err());
        assert!(off.admit(&Probe::Ttl, &own).is_ok());
        let on = Rules { exposed: true, allowed: vec!["10.0.0.0/8".parse().unwrap()] };
        assert!(on.admit(&get("https://10.0.0.1:8443/x"), &own).is_ok());
        assert!(on.admit(&get("http://10.0.0.2/"), &own).is_err());
        let tcp = Probe::Tcp { target: Target::parse("tcp", "web.internal:1").unwrap(), tls: None };
        assert!(on.admit(&tcp, &own).is_ok(), "where it leads is seen later");
        assert!(on.permit("127.0.0.1".parse().unwrap()).is_err());
    }
}
