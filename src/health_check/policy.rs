//! Policy for the targets of probes.
//!
//! A registered check makes this process connect to an address of the client's choice (server-side request forgery). If only clients
//! on this host can register checks, probes may connect to every address that they could reach themselves, except those that reveal
//! secrets to every program on the host. If clients on other hosts can register checks, active checks are rejected until an operator
//! allows networks, and each probe may only connect to the addresses of its own instance.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::url::ProbeUrl;
use crate::model::{FieldError, Probe};

/// Addresses of cloud metadata services that are not link-local.
const METADATA_SERVICES: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
];

/// Policy for the targets of probes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbePolicy {
    /// True if clients on other hosts can register checks.
    pub exposed: bool,
    /// Networks that probes may connect to. Empty: not configured.
    pub allowed: Vec<IpNet>,
}

impl ProbePolicy {
    /// Returns an error if a check may not be registered for an instance with the hosts `own`. A host name is resolved, and its addresses
    /// are checked by [`Self::permit`], with each probe.
    pub(super) fn admit(&self, probe: &Probe, own: &BTreeSet<&str>) -> Result<(), FieldError> {
        if !probe.is_active() {
            return Ok(());
        }
        let host = host(probe)?;
        if self.exposed && self.allowed.is_empty() {
            let problem =
                "cannot be probed: this registry listens to other hosts, and no network is allowed for checks";
            let hint = "start the registry with --check-allow-cidr and the networks of its checks, such as 10.0.0.0/8";
            return Err(FieldError::new("check", &host, problem, hint));
        }
        if self.exposed && !own.iter().any(|own| is_same_host(own, &host)) {
            let problem = "is not an address of the instance";
            return Err(FieldError::new(
                "check",
                &host,
                problem,
                "check an address that the instance is registered with",
            ));
        }
        let Ok(address) = host.parse() else { return Ok(()) };
        self.permit(address).map_err(|why| FieldError::new("check", &host, why, "check another address"))
    }

    /// Returns an error if probes may not connect to this address.
    pub(super) fn permit(&self, address: IpAddr) -> Result<(), &'static str> {
        let address = address.to_canonical();
        let link_local = match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        if link_local || address.is_multicast() || address.is_unspecified() || METADATA_SERVICES.contains(&address) {
            return Err(
                "is not allowed for checks: it is link-local, multicast, unspecified or a cloud metadata service",
            );
        }
        if !self.allowed.is_empty() && !self.allowed.iter().any(|network| network.contains(&address)) {
            return Err("is in none of the networks of --check-allow-cidr");
        }
        Ok(())
    }

    /// Returns an error if a probe may not follow a redirect to this address. `first`: address of the probe's first request.
    pub(super) fn permit_redirect(&self, address: IpAddr, first: IpAddr) -> Result<(), &'static str> {
        if self.exposed && address.to_canonical() != first.to_canonical() {
            return Err("is not the address of the checked instance, and redirects to other addresses are not allowed");
        }
        self.permit(address)
    }
}

/// Compares two hosts: names in any case, addresses in any notation.
fn is_same_host(one: &str, other: &str) -> bool {
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one.to_canonical() == other.to_canonical(),
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// Returns the host that a probe connects to.
fn host(probe: &Probe) -> Result<String, FieldError> {
    match probe {
        Probe::Http(request) => match ProbeUrl::parse(&request.url) {
            Ok(url) => Ok(url.target().host.into()),
            Err(error) => {
                let problem = format!("is not a URL that can be requested ({error})");
                let hint = "write http:// or https:// with a host, such as http://127.0.0.1:8080/health";
                Err(FieldError::new("check.http", &request.shown_url(), problem, hint))
            }
        },
        Probe::Tcp { target, .. } | Probe::Grpc { target, .. } => Ok(target.host.to_string()),
        Probe::Ttl | Probe::Static => Ok(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HttpProbe, ProbeTarget};

    fn get(url: &str) -> Probe {
        Probe::Http(HttpProbe::get(url))
    }

    #[test]
    fn link_local_and_metadata_addresses_are_never_permitted() {
        for policy in
            [ProbePolicy::default(), ProbePolicy { exposed: false, allowed: vec!["0.0.0.0/0".parse().unwrap()] }]
        {
            for address in
                ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200", "0.0.0.0"]
            {
                assert!(policy.permit(address.parse().unwrap()).is_err(), "{address}");
            }
            assert!(policy.permit("127.0.0.1".parse().unwrap()).is_ok());
        }
        assert!(ProbePolicy::default().admit(&get("http://[fe80::1]:80/"), &BTreeSet::new()).is_err());
        assert!(ProbePolicy::default().admit(&get("http://169.254.169.254/latest"), &BTreeSet::new()).is_err());
    }

    #[test]
    fn exposed_registry_admits_only_allowed_addresses_of_the_instance() {
        let own = BTreeSet::from(["10.0.0.1", "web.internal"]);
        let off = ProbePolicy { exposed: true, allowed: Vec::new() };
        assert!(off.admit(&get("http://10.0.0.1/"), &own).is_err());
        assert!(off.admit(&Probe::Ttl, &own).is_ok());
        let on = ProbePolicy { exposed: true, allowed: vec!["10.0.0.0/8".parse().unwrap()] };
        assert!(on.admit(&get("https://10.0.0.1:8443/x"), &own).is_ok());
        assert!(on.admit(&get("http://10.0.0.2/"), &own).is_err());
        let tcp = Probe::Tcp { target: ProbeTarget::parse("tcp", "web.internal:1").unwrap(), tls: None };
        assert!(on.admit(&tcp, &own).is_ok(), "the address of a name is checked with each probe");
        assert!(on.permit("127.0.0.1".parse().unwrap()).is_err());
    }

    #[test]
    fn url_with_misleading_user_or_fragment_is_admitted_by_its_host() {
        let on = ProbePolicy { exposed: true, allowed: vec!["0.0.0.0/0".parse().unwrap()] };
        let own = BTreeSet::from(["10.0.0.1"]);
        for bad in ["http://10.0.0.1@10.0.0.2/", "http://10.0.0.1:80@10.0.0.2/", "http://10.0.0.2#@10.0.0.1/"] {
            assert!(on.admit(&get(bad), &own).is_err(), "{bad}");
        }
        for good in
            ["http://user:10.0.0.2@10.0.0.1/", "HTTP://10.0.0.1", "http://10.0.0.1#@10.0.0.2/", "http://0xa.0.0.1/"]
        {
            assert!(on.admit(&get(good), &own).is_ok(), "{good}");
        }
        for bad in ["http://2852039166/", "http://0xa9fea9fe/x", "HTTP://user:pw@169.254.169.254/"] {
            assert!(ProbePolicy::default().admit(&get(bad), &own).is_err(), "{bad}");
        }
        let error = on.admit(&get("http://user:secret@10.0.0.1:99999/"), &own).unwrap_err().to_string();
        assert!(error.contains("is not a URL") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn redirect_of_exposed_registry_stays_at_the_checked_address() {
        let [first, other, secret] = ["10.0.0.1", "10.0.0.2", "169.254.169.254"].map(|text| text.parse().unwrap());
        let allowed = vec!["0.0.0.0/0".parse().unwrap()];
        let exposed = ProbePolicy { exposed: true, allowed: allowed.clone() };
        assert!(exposed.permit_redirect(first, first).is_ok());
        assert!(exposed.permit_redirect(other, first).is_err());
        let local = ProbePolicy { exposed: false, allowed };
        assert!(local.permit_redirect(other, first).is_ok());
        assert!(local.permit_redirect(secret, first).is_err());
        let narrow = ProbePolicy { exposed: false, allowed: vec!["10.0.0.1/32".parse().unwrap()] };
        assert!(narrow.permit_redirect(other, first).is_err());
    }
}
