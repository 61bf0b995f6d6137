//! Services in requests.

use std::{borrow::Cow, collections::BTreeSet};

use super::{CheckRequest, ConsulError, Fields, Pair, mesh::Mesh, object};
use crate::model::{Address, Locality, Metadata, ServiceName, TaggedAddress, Tags, Weight};

/// Maximum length of a value of metadata, as in Consul.
const MAX_VALUE_BYTES: usize = 512;
/// Maximum length of a key of metadata, as in Consul.
const MAX_KEY_BYTES: usize = 128;
/// Maximum number of entries of metadata, as in Consul.
const MAX_METADATA_PAIRS: usize = 64;

/// Service that a request registers.
#[derive(Debug)]
pub(crate) struct ServiceRequest<'a> {
    pub(crate) id: Cow<'a, str>,
    pub(crate) name: ServiceName,
    pub(crate) kind: Cow<'a, str>,
    pub(crate) tags: Tags,
    /// Address of the service. `None`: that of its node.
    pub(crate) address: Option<Address>,
    pub(crate) port: u16,
    pub(crate) tagged_addresses: Box<[TaggedAddress]>,
    pub(crate) meta: Metadata,
    pub(crate) weight: Weight,
    pub(crate) warning_weight: u16,
    pub(crate) enable_tag_override: bool,
    pub(crate) socket_path: Cow<'a, str>,
    pub(crate) locality: Option<std::sync::Arc<Locality>>,
    pub(crate) mesh: Mesh<'a>,
    /// Set if it is registered through the catalog.
    pub(crate) from_catalog: bool,
    pub(crate) checks: Vec<CheckRequest<'a>>,
}

impl<'a> ServiceRequest<'a> {
    /// Reads the body of `agent/service/register`.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, ConsulError> {
        Self::at_agent(object(bytes, ".Alias")?)
    }

    /// Reads a service with checks that the agent runs.
    fn at_agent(mut fields: Fields<'a>) -> Result<Self, ConsulError> {
        let name = fields.text(&["Name"])?;
        let mut checks = Vec::new();
        if let Some(check) = fields.nested(&["Check"], "structs.CheckType")? {
            checks.extend(CheckRequest::of(check)?);
        }
        for check in fields.list(&["Checks"], "structs.CheckType")? {
            checks.extend(CheckRequest::of(check)?);
        }
        let id = fields.text(&["ID"])?;
        Self::read_rest(fields, (name, id), checks)
    }

    /// Takes the sidecar to register with the service, with the defaults that Consul fills in, but without a port. `None`: the service has
    /// none.
    pub(crate) fn take_sidecar(&mut self) -> Result<Option<Self>, ConsulError> {
        let Some(mut fields) = self.mesh.sidecar.take() else { return Ok(None) };
        if !fields.text(&["ID"])?.is_empty() {
            let reason = "A SidecarService cannot specify an ID as this is managed by the agent";
            return Err(ConsulError::BadValue(format!("Invalid SidecarService: {reason}")));
        }
        let name = fields.text(&["Name"])?;
        let name = if name.is_empty() { format!("{}-sidecar-proxy", self.name).into() } else { name };
        fields.put_text("Name", name);
        let mut sidecar = Self::at_agent(fields)?;
        if sidecar.mesh.sidecar.is_some() {
            return Err(ConsulError::BadRequest(
                "Invalid SidecarService: A SidecarService cannot have a nested SidecarService",
            ));
        }
        sidecar.id = sidecar_id(&self.id).into();
        if sidecar.kind.is_empty() {
            sidecar.kind = "connect-proxy".into();
        }
        if sidecar.address.is_none() {
            sidecar.address.clone_from(&self.address);
        }
        if sidecar.tagged_addresses.is_empty() {
            sidecar.tagged_addresses.clone_from(&self.tagged_addresses);
        }
        if sidecar.tags.as_slice().is_empty() {
            sidecar.tags.clone_from(&self.tags);
        }
        if sidecar.meta.iter().len() == 0 {
            sidecar.meta.clone_from(&self.meta);
        }
        sidecar.mesh.set_destination(self.name.as_str(), &self.id, self.port);
        Ok(Some(sidecar))
    }

    /// Sets the port of the service and of its address.
    pub(crate) fn set_port(&mut self, port: u16) {
        self.port = port;
        if let Some(address) = &mut self.address {
            address.port = port;
        }
    }

    /// Adds the default check of a sidecar without checks: that its port accepts connections. Consul's other default, an alias check of the
    /// service, is not supported.
    pub(crate) fn check_port(&mut self) -> Result<(), ConsulError> {
        if self.checks.is_empty() {
            let host = self.address.as_ref().map_or(self.mesh.local_address(), |address| &*address.host);
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            let target = format!("{host}:{}", self.port);
            self.checks = vec![CheckRequest::tcp("Connect Sidecar Listening", &target)?];
        }
        Ok(())
    }

    /// Returns the error of the service mesh settings, with Consul's text. `None`: they are valid.
    pub(crate) fn mesh_error(&self) -> Option<String> {
        self.mesh.error(&self.kind, self.port > 0, !self.socket_path.is_empty())
    }

    /// Reads the service of a `catalog/register` body.
    pub(super) fn in_catalog(mut fields: Fields<'a>) -> Result<Self, ConsulError> {
        let (name, id) = (fields.text(&["Service"])?, fields.text(&["ID"])?);
        // Consul's Go client sends weights of zero when none are set.
        if let Some(weights) = fields.nested(&["Weights"], "structs.Weights")?.filter(Fields::has_content) {
            fields.put("Weights", weights);
        }
        for known in ["RaftIndex", "CreateIndex", "ModifyIndex", "PeerName", "EnterpriseMeta"] {
            fields.ignore(&[known]);
        }
        Ok(Self { from_catalog: true, ..Self::read_rest(fields, (name, id), Vec::new())? })
    }

    fn read_rest(
        mut fields: Fields<'a>,
        (name, id): (Cow<'a, str>, Cow<'a, str>),
        checks: Vec<CheckRequest<'a>>,
    ) -> Result<Self, ConsulError> {
        let (passing, warning) = weights(&mut fields)?;
        let locality = locality(&mut fields)?;
        let mesh = Mesh::take(&mut fields)?;
        let (address, port) = (fields.text(&["Address"])?, fields.number(&["Port"])?.unwrap_or(0));
        let meta = fields.map(&["Meta"])?;
        let tags = fields.texts(&["Tags"])?;
        let kind = fields.text(&["Kind"])?;
        let tagged_addresses = tagged_addresses(&mut fields)?;
        let enable_tag_override = fields.flag(&["EnableTagOverride", "enable_tag_override"])?;
        let socket_path = fields.text(&["SocketPath", "socket_path"])?;
        // As in Consul, a negative port means none.
        let port = u16::try_from(port.max(0))
            .map_err(|_| ConsulError::BadValue(format!("Invalid service port {port}: give 0 to 65535")))?;
        let tags = Tags::parse_stored(&tags)?;
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
            mesh,
            from_catalog: false,
            checks,
        })
    }
}

/// Returns the id of the sidecar of a service.
pub(crate) fn sidecar_id(service: &str) -> String {
    format!("{service}-sidecar-proxy")
}

fn service_name(name: &str) -> Result<ServiceName, ConsulError> {
    if name.is_empty() {
        return Err(ConsulError::BadRequest("Missing service name"));
    }
    // Consul accepts any name. Here a name is part of DNS names and of paths.
    Ok(ServiceName::parse(name).map_err(|invalid| invalid.with_field("Name"))?)
}

fn own_address(host: &str, port: u16) -> Result<Option<Address>, ConsulError> {
    if host.is_empty() {
        return Ok(None);
    }
    let address = Address::with_any_port(host, port.into(), "");
    address.map(Some).map_err(|_| ConsulError::BadRequest("Invalid service address"))
}

/// Validates metadata of a service, with Consul's errors.
fn metadata(meta: &[Pair<'_>]) -> Result<Metadata, ConsulError> {
    let rejected = |reason: String| ConsulError::BadValue(format!("Invalid Service Meta: {reason}"));
    if meta.len() > MAX_METADATA_PAIRS {
        return Err(rejected(format!("Node metadata cannot contain more than {MAX_METADATA_PAIRS} key/value pairs")));
    }
    for (key, value) in meta {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let reason = if key.is_empty() {
            "Key cannot be blank".to_owned()
        } else if !key.bytes().all(is_valid) {
            "Key contains invalid characters".to_owned()
        } else if key.len() > MAX_KEY_BYTES {
            format!("Key is too long (limit: {MAX_KEY_BYTES} characters)")
        } else if value.len() > MAX_VALUE_BYTES {
            format!("Value is too long (limit: {MAX_VALUE_BYTES} characters)")
        } else {
            continue;
        };
        return Err(rejected(format!("Couldn't load metadata pair ('{key}', '{value}'): {reason}")));
    }
    Ok(Metadata::parse_stored(meta.iter().map(|(key, value)| (key, value)))?)
}

fn weights(fields: &mut Fields<'_>) -> Result<(Weight, u16), ConsulError> {
    let Some(mut weights) = fields.nested(&["Weights"], "structs.Weights")? else { return Ok((Weight::DEFAULT, 1)) };
    let (passing, warning) = (weights.number(&["Passing"])?.unwrap_or(0), weights.number(&["Warning"])?.unwrap_or(0));
    weights.end()?;
    let range = "Invalid Weights: DNS Weight must be between 0 and 65535";
    if passing < 1 {
        return Err(ConsulError::BadRequest("Invalid Weights: Passing must be greater than 0"));
    }
    if warning < 0 {
        return Err(ConsulError::BadRequest("Invalid Weights: Warning must be greater or equal than 0"));
    }
    let passing = u32::try_from(passing).ok().and_then(|passing| Weight::parse(passing).ok());
    let warning = u16::try_from(warning).ok();
    passing.zip(warning).ok_or(ConsulError::BadRequest(range))
}

fn locality(fields: &mut Fields<'_>) -> Result<Option<std::sync::Arc<Locality>>, ConsulError> {
    let Some(mut locality) = fields.nested(&["Locality"], "structs.Locality")? else { return Ok(None) };
    let (region, zone) = (locality.text(&["Region"])?, locality.text(&["Zone"])?);
    locality.end()?;
    Ok(Locality::parse(&region, &zone, "")?)
}

fn tagged_addresses(fields: &mut Fields<'_>) -> Result<Box<[TaggedAddress]>, ConsulError> {
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
        let port =
            u16::try_from(port.max(0)).map_err(|_| ConsulError::BadValue(format!("Invalid port {port} of {name}")))?;
        found.push((name.into(), host.into(), port));
    }
    Ok(found.into())
}
