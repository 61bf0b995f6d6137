//! Service mesh settings of a registration. They are validated as in Consul, stored and shown, but have no effect.

use serde_json::{Map, Value as Json};

use super::{ConsulError, Fields, value::JsonValue};

/// Settings of a proxy: the name in answers, then other names accepted in requests.
const SETTINGS: [&[&str]; 14] = [
    &["DestinationServiceName", "destination_service_name"],
    &["DestinationServiceID", "destination_service_id"],
    &["LocalServiceAddress", "local_service_address"],
    &["LocalServicePort", "local_service_port"],
    &["LocalServiceSocketPath", "local_service_socket_path"],
    &["Mode"],
    &["Config"],
    &["Upstreams"],
    &["MeshGateway", "mesh_gateway"],
    &["Expose"],
    &["TransparentProxy", "transparent_proxy"],
    &["EnvoyExtensions", "envoy_extensions"],
    &["AccessLogs", "access_logs"],
    &["MutualTLSMode", "mutual_tls_mode"],
];
/// Kinds of gateways. The second value is true if the kind needs a port.
const GATEWAYS: [(&str, bool); 4] =
    [("mesh-gateway", true), ("terminating-gateway", true), ("ingress-gateway", false), ("api-gateway", false)];

/// Service mesh settings of a registration.
#[derive(Debug, Default)]
pub(crate) struct Mesh<'a> {
    proxy: Map<String, Json>,
    pub(crate) native: bool,
    /// Sidecar to register with the service.
    pub(super) sidecar: Option<Fields<'a>>,
}

impl<'a> Mesh<'a> {
    /// Takes the settings out of a registration.
    pub(super) fn take(fields: &mut Fields<'a>) -> Result<Self, ConsulError> {
        let proxy = fields.nested(&["Proxy"], "structs.ConnectProxyConfig")?.map(settings).transpose()?;
        let Some(mut connect) = fields.nested(&["Connect"], "structs.ServiceConnect")? else {
            return Ok(Self { proxy: proxy.unwrap_or_default(), ..Self::default() });
        };
        let native = connect.flag(&["Native"])?;
        let sidecar = connect.nested(&["SidecarService", "sidecar_service"], "structs.ServiceDefinition")?;
        // Fields of answers, which clients send back when they register a service that they have read.
        for known in ["PeerMeta", "peer_meta", "Proxy"] {
            connect.ignore(&[known]);
        }
        connect.end()?;
        Ok(Self { proxy: proxy.unwrap_or_default(), native, sidecar })
    }

    /// Returns the settings of the proxy as JSON; empty if there are none.
    pub(crate) fn proxy_text(&self) -> Box<str> {
        if self.proxy.is_empty() {
            return Box::default();
        }
        Json::Object(self.proxy.clone()).to_string().into()
    }

    /// Returns the address at which the proxy reaches its service.
    pub(super) fn local_address(&self) -> &str {
        self.text("LocalServiceAddress")
    }

    /// Fills in the defaults of a sidecar of a service.
    pub(super) fn set_destination(&mut self, name: &str, id: &str, port: u16) {
        for (field, value) in
            [("DestinationServiceName", name), ("DestinationServiceID", id), ("LocalServiceAddress", "127.0.0.1")]
        {
            if self.text(field).is_empty() {
                self.proxy.insert(field.to_owned(), value.into());
            }
        }
        if self.number("LocalServicePort") < 1 && port > 0 {
            self.proxy.insert("LocalServicePort".to_owned(), port.into());
        }
    }

    /// Returns the error of the settings, with Consul's text.
    pub(super) fn error(&self, kind: &str, port: bool, socket: bool) -> Option<String> {
        let mut errors = Vec::new();
        if kind == "connect-proxy" {
            if !port && !socket {
                errors.push(format!("Port or SocketPath must be set for a {kind}"));
            }
            match self.text("DestinationServiceName").trim() {
                "" => {
                    errors.push("Proxy.DestinationServiceName must be non-empty for Connect proxy services".to_owned());
                }
                "*" => errors
                    .push("Proxy.DestinationServiceName must not be a wildcard for Connect proxy services".to_owned()),
                _ => {}
            }
            if self.native {
                errors.push("A Proxy cannot also be Connect Native, only typical services".to_owned());
            }
        }
        if let Some((_, needs_port)) = GATEWAYS.iter().find(|(gateway, _)| *gateway == kind) {
            if *needs_port && !port {
                errors.push(format!("Port must be non-zero for a {kind}"));
            }
            if self.sidecar.is_some() {
                errors.push(format!("A {kind} cannot have a sidecar service defined"));
            }
            let of_proxies = SETTINGS[..5].iter().chain([&SETTINGS[7]]).map(|names| names[0]);
            let given = of_proxies.filter(|field| self.proxy.contains_key(*field));
            errors.extend(given.map(|field| format!("The Proxy.{field} configuration is invalid for a {kind}")));
        }
        if self.native && !port && !socket {
            errors.push("Port or SocketPath must be set for a Connect native service.".to_owned());
        }
        multierror(&errors)
    }

    fn text(&self, field: &str) -> &str {
        self.proxy.get(field).and_then(Json::as_str).unwrap_or_default()
    }

    fn number(&self, field: &str) -> i64 {
        self.proxy.get(field).and_then(Json::as_i64).unwrap_or_default()
    }
}

/// Reads the settings of a proxy. Empty settings are left out, as Consul leaves them out of answers.
fn settings(mut fields: Fields<'_>) -> Result<Map<String, Json>, ConsulError> {
    let mut proxy = Map::new();
    for names in SETTINGS {
        let Some(value) = fields.take(names) else { continue };
        let is_valid = match names[0] {
            "LocalServicePort" => matches!(value, JsonValue::Number(_)),
            "Config" | "MeshGateway" | "Expose" | "TransparentProxy" | "AccessLogs" => {
                matches!(value, JsonValue::Object(_))
            }
            "Upstreams" | "EnvoyExtensions" => matches!(value, JsonValue::List(_)),
            _ => matches!(value, JsonValue::Text(_)),
        };
        if !is_valid {
            return Err(fields.wrong(names[0], &value, "another type"));
        }
        // In the configuration of the proxy program, an empty or false value may have a meaning.
        if value.has_content() || names[0] == "Config" && value.has_members() {
            proxy.insert(names[0].to_owned(), value.into_json());
        }
    }
    fields.end()?;
    Ok(proxy)
}

/// Formats several problems as Go's multierror does.
fn multierror(errors: &[String]) -> Option<String> {
    let count = match errors.len() {
        0 => return None,
        1 => "1 error".to_owned(),
        many => format!("{many} errors"),
    };
    Some(format!("{count} occurred:\n\t* {}\n\n", errors.join("\n\t* ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::consul::body::object;

    fn mesh(text: &str) -> Result<Mesh<'_>, String> {
        let mut fields = object(text.as_bytes(), ".Alias").unwrap();
        Mesh::take(&mut fields).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_stored_under_consuls_names() {
        let given = r#"{"Proxy":{"destination_service_name":"web","Config":{"a":0,"b":{"c":false}},"Mode":"","Upstreams":[],
            "MeshGateway":{},"LocalServicePort":80},"Connect":{"Native":true}}"#;
        let mesh = mesh(given).unwrap();
        let kept = r#"{"Config":{"a":0,"b":{"c":false}},"DestinationServiceName":"web","LocalServicePort":80}"#;
        assert_eq!((&*mesh.proxy_text(), mesh.native), (kept, true));
    }

    #[test]
    fn empty_settings_are_left_out() {
        let mesh = mesh(r#"{"Proxy":{"Mode":"","MeshGateway":{},"Expose":{}},"Connect":{}}"#).unwrap();
        assert!(mesh.proxy_text().is_empty() && !mesh.native && mesh.sidecar.is_none());
        assert_eq!(mesh.error("", false, false), None);
    }

    #[test]
    fn unknown_settings_and_wrong_types_are_rejected() {
        assert_eq!(mesh(r#"{"Proxy":{"Nope":1}}"#).unwrap_err(), "Request decode failed: json: unknown field \"Nope\"");
        assert!(mesh(r#"{"Proxy":{"Config":[]}}"#).unwrap_err().contains("cannot unmarshal array"));
        assert!(mesh(r#"{"Connect":{"Nope":1}}"#).is_err());
    }

    #[test]
    fn errors_of_proxies_and_gateways_are_listed_as_consul_lists_them() {
        let error = |text, kind, port| mesh(text).unwrap().error(kind, port, false);
        let named = r#"{"Proxy":{"DestinationServiceName":"web"}}"#;
        assert_eq!(error(named, "connect-proxy", true), None);
        assert_eq!(
            error("{}", "connect-proxy", true).unwrap(),
            "1 error occurred:\n\t* Proxy.DestinationServiceName must be non-empty for Connect proxy services\n\n"
        );
        let gateway = error(named, "mesh-gateway", false).unwrap();
        assert_eq!(
            gateway,
            "2 errors occurred:\n\t* Port must be non-zero for a mesh-gateway\n\t* The Proxy.DestinationServiceName configuration is invalid for a mesh-gateway\n\n"
        );
        assert_eq!(error("{}", "ingress-gateway", false), None);
        assert!(error(r#"{"Connect":{"Native":true}}"#, "", false).unwrap().contains("Connect native service."));
        assert!(error(r#"{"Connect":{"SidecarService":{}}}"#, "api-gateway", true).unwrap().contains("sidecar"));
    }
}
