//! The parts of a registration that are about Consul's service mesh: read as Consul reads them, kept and shown, never acted on.

use serde_json::{Map, Value as Json};

use super::{ConsulError, Fields, value::JsonValue};

/// Settings of a proxy: the names under which they are shown, and any other under which they may be sent.
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
/// Kinds of services that are gateways; true for those that need a port.
const GATEWAYS: [(&str, bool); 4] =
    [("mesh-gateway", true), ("terminating-gateway", true), ("ingress-gateway", false), ("api-gateway", false)];

/// What a registration says about a mesh.
#[derive(Debug, Default)]
pub(crate) struct Mesh<'a> {
    proxy: Map<String, Json>,
    pub(crate) native: bool,
    /// The proxy that is to be registered beside the service.
    pub(super) sidecar: Option<Fields<'a>>,
}

impl<'a> Mesh<'a> {
    /// Takes the parts out of a registration.
    pub(super) fn take(fields: &mut Fields<'a>) -> Result<Self, ConsulError> {
        let proxy = fields.nested(&["Proxy"], "structs.ConnectProxyConfig")?.map(settings).transpose()?;
        let Some(mut connect) = fields.nested(&["Connect"], "structs.ServiceConnect")? else {
            return Ok(Self { proxy: proxy.unwrap_or_default(), ..Self::default() });
        };
        let native = connect.switch(&["Native"])?;
        let sidecar = connect.nested(&["SidecarService", "sidecar_service"], "structs.ServiceDefinition")?;
        // Who reads a service and registers it again sends these along.
        for known in ["PeerMeta", "peer_meta", "Proxy"] {
            connect.ignore(&[known]);
        }
        connect.end()?;
        Ok(Self { proxy: proxy.unwrap_or_default(), native, sidecar })
    }

    /// Returns the settings of the proxy as JSON; empty where there are none.
    pub(crate) fn proxy_text(&self) -> Box<str> {
        if self.proxy.is_empty() {
            return Box::default();
        }
        Json::Object(self.proxy.clone()).to_string().into()
    }

    /// The address at which the proxy reaches the service behind it.
    pub(super) fn local_address(&self) -> &str {
        self.text("LocalServiceAddress")
    }

    /// Fills in what Consul fills in of a proxy that stands before a service.
    pub(super) fn stand_before(&mut self, name: &str, id: &str, port: u16) {
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

    /// Returns what is wrong with it, in Consul's words.
    pub(super) fn problem(&self, kind: &str, port: bool, socket: bool) -> Option<String> {
        let mut problems = Vec::new();
        if kind == "connect-proxy" {
            if !port && !socket {
                problems.push(format!("Port or SocketPath must be set for a {kind}"));
            }
            match self.text("DestinationServiceName").trim() {
                "" => problems
                    .push("Proxy.DestinationServiceName must be non-empty for Connect proxy services".to_owned()),
                "*" => problems
                    .push("Proxy.DestinationServiceName must not be a wildcard for Connect proxy services".to_owned()),
                _ => {}
            }
            if self.native {
                problems.push("A Proxy cannot also be Connect Native, only typical services".to_owned());
            }
        }
        if let Some((_, needs_port)) = GATEWAYS.iter().find(|(gateway, _)| *gateway == kind) {
            if *needs_port && !port {
                problems.push(format!("Port must be non-zero for a {kind}"));
            }
            if self.sidecar.is_some() {
                problems.push(format!("A {kind} cannot have a sidecar service defined"));
            }
            let of_proxies = SETTINGS[..5].iter().chain([&SETTINGS[7]]).map(|names| names[0]);
            let given = of_proxies.filter(|field| self.proxy.contains_key(*field));
            problems.extend(given.map(|field| format!("The Proxy.{field} configuration is invalid for a {kind}")));
        }
        if self.native && !port && !socket {
            problems.push("Port or SocketPath must be set for a Connect native service.".to_owned());
        }
        listed(&problems)
    }

    fn text(&self, field: &str) -> &str {
        self.proxy.get(field).and_then(Json::as_str).unwrap_or_default()
    }

    fn number(&self, field: &str) -> i64 {
        self.proxy.get(field).and_then(Json::as_i64).unwrap_or_default()
    }
}

/// Takes the settings of a proxy as they are; those that say nothing are left out, as Consul leaves them out where it shows them.
fn settings(mut fields: Fields<'_>) -> Result<Map<String, Json>, ConsulError> {
    let mut proxy = Map::new();
    for names in SETTINGS {
        let Some(value) = fields.take(names) else { continue };
        let good = match names[0] {
            "LocalServicePort" => matches!(value, JsonValue::Number(_)),
            "Config" | "MeshGateway" | "Expose" | "TransparentProxy" | "AccessLogs" => {
                matches!(value, JsonValue::Object(_))
            }
            "Upstreams" | "EnvoyExtensions" => matches!(value, JsonValue::List(_)),
            _ => matches!(value, JsonValue::Text(_)),
        };
        if !good {
            return Err(fields.wrong(names[0], &value, "another type"));
        }
        // Settings of the proxy's own program mean something even where they are empty or false.
        if value.says_something() || names[0] == "Config" && value.has_members() {
            proxy.insert(names[0].to_owned(), value.into_json());
        }
    }
    fields.end()?;
    Ok(proxy)
}

/// Several problems as Go's multierror writes them.
fn listed(problems: &[String]) -> Option<String> {
    let count = match problems.len() {
        0 => return None,
        1 => "1 error".to_owned(),
        many => format!("{many} errors"),
    };
    Some(format!("{count} occurred:\n\t* {}\n\n", problems.join("\n\t* ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::consul::body::object;

    fn mesh(text: &str) -> Result<Mesh<'_>, String> {
        let mut fields = object(text.as_bytes(), ".Alias").unwrap();
        Mesh::take(&mut fields).map_err(|problem| problem.to_string())
    }

    #[test]
    fn settings_are_kept_as_they_are_under_consuls_names() {
        let given = r#"{"Proxy":{"destination_service_name":"web","Config":{"a":0,"b":{"c":false}},"Mode":"","Upstreams":[],
            "MeshGateway":{},"LocalServicePort":80},"Connect":{"Native":true}}"#;
        let mesh = mesh(given).unwrap();
        let kept = r#"{"Config":{"a":0,"b":{"c":false}},"DestinationServiceName":"web","LocalServicePort":80}"#;
        assert_eq!((&*mesh.proxy_text(), mesh.native), (kept, true));
    }

    #[test]
    fn empty_parts_say_nothing() {
        let mesh = mesh(r#"{"Proxy":{"Mode":"","MeshGateway":{},"Expose":{}},"Connect":{}}"#).unwrap();
        assert!(mesh.proxy_text().is_empty() && !mesh.native && mesh.sidecar.is_none());
        assert_eq!(mesh.problem("", false, false), None);
    }

    #[test]
    fn unknown_settings_and_wrong_types_are_refused() {
        assert_eq!(mesh(r#"{"Proxy":{"Nope":1}}"#).unwrap_err(), "Request decode failed: json: unknown field \"Nope\"");
        assert!(mesh(r#"{"Proxy":{"Config":[]}}"#).unwrap_err().contains("cannot unmarshal array"));
        assert!(mesh(r#"{"Connect":{"Nope":1}}"#).is_err());
    }

    #[test]
    fn problems_of_proxies_and_gateways_are_listed_as_consul_lists_them() {
        let problem = |text, kind, port| mesh(text).unwrap().problem(kind, port, false);
        let named = r#"{"Proxy":{"DestinationServiceName":"web"}}"#;
        assert_eq!(problem(named, "connect-proxy", true), None);
        assert_eq!(
            problem("{}", "connect-proxy", true).unwrap(),
            "1 error occurred:\n\t* Proxy.DestinationServiceName must be non-empty for Connect proxy services\n\n"
        );
        let gateway = problem(named, "mesh-gateway", false).unwrap();
        assert_eq!(
            gateway,
            "2 errors occurred:\n\t* Port must be non-zero for a mesh-gateway\n\t* The Proxy.DestinationServiceName configuration is invalid for a mesh-gateway\n\n"
        );
        assert_eq!(problem("{}", "ingress-gateway", false), None);
        assert!(problem(r#"{"Connect":{"Native":true}}"#, "", false).unwrap().contains("Connect native service."));
        assert!(problem(r#"{"Connect":{"SidecarService":{}}}"#, "api-gateway", true).unwrap().contains("sidecar"));
    }
}
