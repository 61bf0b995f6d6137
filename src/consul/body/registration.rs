//! Services and nodes as they are sent.

use std::{borrow::Cow, collections::BTreeSet};

use super::{Asked, Fields, Pair, Problem, object};
use crate::model::{Address, Locality, Metadata, ServiceName, TaggedAddress, Tags, Weight};

/// Longest value of metadata, in bytes: as in Consul, and told in its words.
const LONGEST_VALUE: usize = 512;
const LONGEST_KEY: usize = 128;
const MOST_PAIRS: usize = 64;

/// A service as it was asked for.
#[derive(Debug)]
pub(crate) struct Service<'a> {
    pub(crate) id: Cow<'a, str>,
    pub(crate) name: ServiceName,
    pub(crate) kind: Cow<'a, str>,
    pub(crate) tags: Tags,
    /// `None`: that of its node.
    pub(crate) address: Option<Address>,
    pub(crate) port: u16,
    pub(crate) tagged_addresses: Box<[TaggedAddress]>,
    pub(crate) meta: Metadata,
    pub(crate) weight: Weight,
    pub(crate) warning_weight: u16,
    pub(crate) enable_tag_override: bool,
    pub(crate) socket_path: Cow<'a, str>,
    pub(crate) locality: Option<std::sync::Arc<Locality>>,
    pub(crate) checks: Vec<Asked<'a>>,
}

impl<'a> Service<'a> {
    /// What `agent/service/register` sends.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Problem> {
        let mut fields = object(bytes, ".Alias")?;
        let name = fields.text(&["Name"])?;
        let mut checks = Vec::new();
        if let Some(check) = fields.nested(&["Check"], "structs.CheckType")? {
            checks.extend(Asked::of(check)?);
        }
        for check in fields.list(&["Checks"], "structs.CheckType")? {
            checks.extend(Asked::of(check)?);
        }
        let id = fields.text(&["ID"])?;
        Self::read_rest(fields, (name, id), checks)
    }

    /// What `catalog/register` has within.
    fn in_catalog(mut fields: Fields<'a>) -> Result<Self, Problem> {
        let (name, id) = (fields.text(&["Service"])?, fields.text(&["ID"])?);
        // Go's own client sends weights of nothing along when none are meant.
        if let Some(weights) = fields.nested(&["Weights"], "structs.Weights")?.filter(Fields::says_something) {
            fields.put("Weights", weights);
        }
        for known in ["RaftIndex", "CreateIndex", "ModifyIndex", "PeerName", "EnterpriseMeta"] {
            fields.ignore(&[known]);
        }
        Self::read_rest(fields, (name, id), Vec::new())
    }

    fn read_rest(
        mut fields: Fields<'a>,
        (name, id): (Cow<'a, str>, Cow<'a, str>),
        checks: Vec<Asked<'a>>,
    ) -> Result<Self, Problem> {
        let (passing, warning) = weights(&mut fields)?;
        let locality = locality(&mut fields)?;
        refuse_mesh(&mut fields)?;
        let (address, port) = (fields.text(&["Address"])?, fields.number(&["Port"])?.unwrap_or(0));
        let meta = fields.map(&["Meta"])?;
        let tags = fields.texts(&["Tags"])?;
        let kind = fields.text(&["Kind"])?;
        let tagged_addresses = tagged_addresses(&mut fields)?;
        let enable_tag_override = fields.switch(&["EnableTagOverride", "enable_tag_override"])?;
        let socket_path = fields.text(&["SocketPath", "socket_path"])?;
        // As Consul does with ports below zero: there is none.
        let port = u16::try_from(port.max(0))
            .map_err(|_| Problem::Bad(format!("Invalid service port {port}: give 0 to 65535")))?;
        let tags = Tags::parse(&tags)?;
        fields.ignore(&["Token"]);
        fields.end()?;
        Ok(Self {
            name: service_name(&name)?,
            address: own_address(&address, port)?,
            meta: metadata(&meta)?,
            id: if id.is_empty() { name } else { id },
            kind,
            tags,
            port,
            tagged_addresses,
            weight: passing,
            warning_weight: warning,
            enable_tag_override,
            socket_path,
            locality,
            checks,
        })
    }
}

fn service_name(name: &str) -> Result<ServiceName, Problem> {
    if name.is_empty() {
        return Err(Problem::Text("Missing service name"));
    }
    ServiceName::parse(name).map_err(|_| {
        Problem::Server(format!(
            "Service name {name} contains invalid characters. Valid characters include all alpha-numerics and dashes."
        ))
    })
}

fn own_address(host: &str, port: u16) -> Result<Option<Address>, Problem> {
    if host.is_empty() {
        return Ok(None);
    }
    let address = Address::with_any_port(host, port.into(), "");
    address.map(Some).map_err(|_| Problem::Text("Invalid service address"))
}

/// Metadata of a service, refused in Consul's words.
fn metadata(meta: &[Pair<'_>]) -> Result<Metadata, Problem> {
    let refused = |why: String| Problem::Bad(format!("Invalid Service Meta: {why}"));
    if meta.len() > MOST_PAIRS {
        return Err(refused(format!("Node metadata cannot contain more than {MOST_PAIRS} key/value pairs")));
    }
    for (key, value) in meta {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let why = if key.is_empty() {
            "Key cannot be blank".to_owned()
        } else if !key.bytes().all(good) {
            "Key contains invalid characters".to_owned()
        } else if key.len() > LONGEST_KEY {
            format!("Key is too long (limit: {LONGEST_KEY} characters)")
        } else if value.len() > LONGEST_VALUE {
            format!("Value is too long (limit: {LONGEST_VALUE} characters)")
        } else {
            continue;
        };
        return Err(refused(format!("Couldn't load metadata pair ('{key}', '{value}'): {why}")));
    }
    Ok(Metadata::parse(meta.iter().map(|(key, value)| (key, value)))?)
}

fn weights(fields: &mut Fields<'_>) -> Result<(Weight, u16), Problem> {
    let Some(mut weights) = fields.nested(&["Weights"], "structs.Weights")? else { return Ok((Weight::USUAL, 1)) };
    let (passing, warning) = (weights.number(&["Passing"])?.unwrap_or(0), weights.number(&["Warning"])?.unwrap_or(0));
    weights.end()?;
    let range = "Invalid Weights: DNS Weight must be between 0 and 65535";
    if passing < 1 {
        return Err(Problem::Text("Invalid Weights: Passing must be greater than 0"));
    }
    if warning < 0 {
        return Err(Problem::Text("Invalid Weights: Warning must be greater or equal than 0"));
    }
    let passing = u32::try_from(passing).ok().and_then(|passing| Weight::parse(passing).ok());
    let warning = u16::try_from(warning).ok();
    passing.zip(warning).ok_or(Problem::Text(range))
}

fn locality(fields: &mut Fields<'_>) -> Result<Option<std::sync::Arc<Locality>>, Problem> {
    let Some(mut locality) = fields.nested(&["Locality"], "structs.Locality")? else { return Ok(None) };
    let (region, zone) = (locality.text(&["Region"])?, locality.text(&["Zone"])?);
    locality.end()?;
    Ok(Locality::parse(&region, &zone, "")?)
}

fn tagged_addresses(fields: &mut Fields<'_>) -> Result<Box<[TaggedAddress]>, Problem> {
    let Some(mut all) = fields.nested(&["TaggedAddresses", "tagged_addresses"], "map[string]structs.ServiceAddress")?
    else {
        return Ok(Box::default());
    };
    let names: BTreeSet<_> = all.left.iter().map(|(name, _)| name.clone()).collect();
    let mut found = Vec::new();
    for name in names {
        let Some(mut one) = all.nested(&[&name], "structs.ServiceAddress")? else { continue };
        let (host, port) = (one.text(&["Address"])?, one.number(&["Port"])?.unwrap_or(0));
        one.end()?;
        let port = u16::try_from(port.max(0)).map_err(|_| Problem::Bad(format!("Invalid port {port} of {name}")))?;
        found.push((name.into(), host.into(), port));
    }
    Ok(found.into())
}

/// Parts of a registration that are about a service mesh: nothing may be said there.
fn refuse_mesh(fields: &mut Fields<'_>) -> Result<(), Problem> {
    for name in ["Proxy", "Connect"] {
        if fields.nested(&[name], "structs.ConnectProxyConfig")?.is_some_and(|said| said.says_something()) {
            return Err(Problem::Bad(format!("{name} is about a service mesh, which Callboard is not: leave it out")));
        }
    }
    Ok(())
}

/// What `catalog/register` sends.
#[derive(Debug)]
pub(crate) struct CatalogRegistration<'a> {
    pub(crate) node: Cow<'a, str>,
    pub(crate) id: Cow<'a, str>,
    pub(crate) address: Cow<'a, str>,
    pub(crate) tagged_addresses: Vec<Pair<'a>>,
    pub(crate) meta: Metadata,
    pub(crate) skip_node_update: bool,
    pub(crate) service: Option<Service<'a>>,
    pub(crate) checks: Vec<Asked<'a>>,
}

impl<'a> CatalogRegistration<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Problem> {
        let mut fields = object(bytes, "structs.RegisterRequest")?;
        let service = fields.nested(&["Service"], "structs.NodeService")?.map(Service::in_catalog).transpose()?;
        let mut checks = Vec::new();
        if let Some(check) = fields.nested(&["Check"], "structs.HealthCheck")? {
            checks.extend(Asked::of(without_definition(check))?);
        }
        for check in fields.list(&["Checks"], "structs.HealthCheck")? {
            checks.extend(Asked::of(without_definition(check))?);
        }
        let (node, address) = (fields.text(&["Node"])?, fields.text(&["Address"])?);
        let meta = fields.map(&["NodeMeta", "node_meta"])?;
        let registration = Self {
            id: fields.text(&["ID"])?,
            tagged_addresses: fields.map(&["TaggedAddresses", "tagged_addresses"])?,
            skip_node_update: fields.switch(&["SkipNodeUpdate", "skip_node_update"])?,
            meta: Metadata::parse(meta.iter().map(|(key, value)| (key, value)))?,
            checks: checks.into_iter().map(Asked::stated).collect(),
            node,
            address,
            service,
        };
        for known in ["Datacenter", "Token", "WriteRequest", "PeerName", "Locality"] {
            fields.ignore(&[known]);
        }
        fields.end()?;
        if registration.node.is_empty() {
            return Err(Problem::Server("Must provide node".to_owned()));
        }
        if registration.address.is_empty() && !registration.skip_node_update {
            return Err(Problem::Server("Must provide address if SkipNodeUpdate is not set".to_owned()));
        }
        Ok(registration)
    }
}

/// How a check is made whose verdict is stated does not matter.
fn without_definition(mut check: Fields<'_>) -> Fields<'_> {
    check.ignore(&["Definition"]);
    check
}

/// What `catalog/deregister` sends.
#[derive(Debug)]
pub(crate) struct CatalogDeregistration<'a> {
    pub(crate) node: Cow<'a, str>,
    pub(crate) service: Cow<'a, str>,
    pub(crate) check: Cow<'a, str>,
}

impl<'a> CatalogDeregistration<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Problem> {
        let mut fields = object(bytes, "structs.DeregisterRequest")?;
        let asked = Self {
            node: fields.text(&["Node"])?,
            service: fields.text(&["ServiceID", "service_id"])?,
            check: fields.text(&["CheckID", "check_id"])?,
        };
        for known in ["Datacenter", "Address", "Token", "WriteRequest", "PeerName"] {
            fields.ignore(&[known]);
        }
        fields.end()?;
        if asked.node.is_empty() { Err(Problem::Server("Must provide node".to_owned())) } else { Ok(asked) }
    }
}
