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

use super::url::ProbeUrl;
use crate::model::{FieldError, Probe};

/// Where clouds tell secrets, beside link-local addresses.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
];

/// Where probes may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbePolicy {
    /// Others than this machine can ask for checks.
    pub exposed: bool,
    /// Where an operator lets them go. Empty: nothing was said.
    pub allowed: Vec<IpNet>,
}

impl ProbePolicy {
    /// Whether a check may be registered, of an instance with these addresses. Where a name leads is seen when the probe is made.
    pub(super) fn admit(&self, probe: &Probe, own: &BTreeSet<&str>) -> Result<(), FieldError> {
        if !probe.is_active() {
            return Ok(());
        }
        let host = host(probe)?;
        if self.exposed && self.allowed.is_empty() {
            let problem = "cannot be made: other machines can ask for checks here";
            let remedy = "have the registry started with --check-allow-cidr and the networks that its checks may go to, as 10.0.0.0/8";
            return Err(FieldError::new("check", &host, problem, remedy));
        }
        if self.exposed && !own.iter().any(|own| is_same_host(own, &host)) {
            let remedy = "check an address that the instance is registered with";
            return Err(FieldError::new("check", &host, "is not the instance's own address", remedy));
        }
        let Ok(address) = host.parse() else { return Ok(()) };
        self.permit(address).map_err(|why| FieldError::new("check", &host, why, "check another address"))
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
            return Err("is in none of the networks of --check-allow-cidr");
        }
        Ok(())
    }

    /// Whether a redirect may lead to this address. `first`: the address that the check itself goes to.
    pub(super) fn permit_redirect(&self, address: IpAddr, first: IpAddr) -> Result<(), &'static str> {
        if self.exposed && address.to_canonical() != first.to_canonical() {
            return Err("is not the address of the instance that is checked, and redirects may not leave it");
        }
        self.permit(address)
    }
}

/// Whether two spellings of a host are one: names in any case, IPv6 addresses in any form.
fn is_same_host(one: &str, other: &str) -> bool {
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one.to_canonical() == other.to_canonical(),
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// The host that a probe goes to.
fn host(probe: &Probe) -> Result<String, FieldError> {
    match probe {
        Probe::Http(request) => match ProbeUrl::parse(&request.url) {
            Ok(url) => Ok(url.target().host.into()),
            Err(error) => {
                let problem = format!("is not a URL that can be requested ({error})");
                let remedy = "write http:// or https:// with a host, as http://127.0.0.1:8080/health";
                Err(FieldError::new("check.http", &request.shown_url(), problem, remedy))
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
    fn secrets_are_never_asked_for() {
        for rules in
            [ProbePolicy::default(), ProbePolicy { exposed: false, allowed: vec!["0.0.0.0/0".parse().unwrap()] }]
        {
            for bad in
                ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200", "0.0.0.0"]
            {
                assert!(rules.permit(bad.parse().unwrap()).is_err(), "{bad}");
            }
            assert!(rules.permit("127.0.0.1".parse().unwrap()).is_ok());
        }
        assert!(ProbePolicy::default().admit(&get("http://[fe80::1]:80/"), &BTreeSet::new()).is_err());
        assert!(ProbePolicy::default().admit(&get("http://169.254.169.254/latest"), &BTreeSet::new()).is_err());
    }

    #[test]
    fn who_may_be_asked_by_others_asks_only_where_it_was_told() {
        let own = BTreeSet::from(["10.0.0.1", "web.internal"]);
        let off = ProbePolicy { exposed: true, allowed: Vec::new() };
        assert!(off.admit(&get("http://10.0.0.1/"), &own).is_err());
        assert!(off.admit(&Probe::Ttl, &own).is_ok());
        let on = ProbePolicy { exposed: true, allowed: vec!["10.0.0.0/8".parse().unwrap()] };
        assert!(on.admit(&get("https://10.0.0.1:8443/x"), &own).is_ok());
        assert!(on.admit(&get("http://10.0.0.2/"), &own).is_err());
        let tcp = Probe::Tcp { target: ProbeTarget::parse("tcp", "web.internal:1").unwrap(), tls: None };
        assert!(on.admit(&tcp, &own).is_ok(), "where it leads is seen later");
        assert!(on.permit("127.0.0.1".parse().unwrap()).is_err());
    }

    #[test]
    fn url_with_another_host_in_disguise_is_judged_by_the_host_it_leads_to() {
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
        let refusal = on.admit(&get("http://user:secret@10.0.0.1:99999/"), &own).unwrap_err().to_string();
        assert!(refusal.contains("is not a URL") && !refusal.contains("secret"), "{refusal}");
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
