use clap::Parser;
use serde_json::{Value, json};

use super::*;

#[derive(Debug, Parser)]
struct Program {
    #[command(flatten)]
    args: BootstrapArgs,
}

/// Returns the file for these arguments, or the message of the error.
fn text(line: &str) -> Result<String, String> {
    let words = ["bootstrap"].into_iter().chain(line.split(' '));
    let program = Program::try_parse_from(words).map_err(|error| error.to_string())?;
    program.args.text().map_err(|error| error.to_string())
}

fn grpc(line: &str) -> Value {
    serde_json::from_str(&text(line).unwrap()).unwrap()
}

fn envoy(line: &str) -> Value {
    serde_yaml_ng::from_str(&text(&format!("--for envoy {line}")).unwrap()).unwrap()
}

#[test]
fn grpc_client_gets_server_credentials_features_and_node() {
    let expected = |uri| {
        json!({
            "xds_servers": [{
                "server_uri": uri,
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3", "ignore_resource_deletion"],
            }],
            "node": {
                "id": "a",
                "cluster": "shop",
                "locality": {"region": "eu", "zone": "eu-1", "sub_zone": ""},
            },
        })
    };
    for client in BootstrapClient::value_variants() {
        let uri = match client {
            BootstrapClient::Envoy => continue,
            BootstrapClient::Rust => "http://10.0.0.1:8502",
            BootstrapClient::Go
            | BootstrapClient::Java
            | BootstrapClient::Python
            | BootstrapClient::Node
            | BootstrapClient::Ruby
            | BootstrapClient::Php
            | BootstrapClient::Cpp => "10.0.0.1:8502",
        };
        let name = client.to_possible_value().unwrap();
        for address in ["10.0.0.1:8502", "http://10.0.0.1:8502/"] {
            let line =
                format!("--for {} --server {address} --node-id a --cluster shop --locality eu/eu-1", name.get_name());
            assert_eq!(grpc(&line), expected(uri), "{line}");
        }
    }
}

#[test]
fn node_has_unique_id_and_locality_by_default() {
    let (one, two) = (grpc("--for node"), grpc("--for node"));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let id = one["node"]["id"].as_str().unwrap();
    assert!(id.starts_with(&format!("{host}-")), "{id}");
    assert_ne!(one["node"]["id"], two["node"]["id"]);
    assert_eq!(one["node"]["cluster"], "callboard");
    assert_eq!(one["node"]["locality"], json!({"region": "", "zone": "", "sub_zone": ""}));
}

#[test]
fn tls_files_are_credentials_with_absolute_paths() {
    let bootstrap =
        grpc("--for go --server registry:8503 --tls-ca /tls/ca.pem --tls-cert /tls/me.pem --tls-key /tls/me.key");
    assert_eq!(bootstrap["xds_servers"][0]["server_uri"], "registry:8503");
    assert_eq!(
        bootstrap["xds_servers"][0]["channel_creds"],
        json!([{"type": "tls", "config": {
            "ca_certificate_file": "/tls/ca.pem",
            "certificate_file": "/tls/me.pem",
            "private_key_file": "/tls/me.key",
        }}])
    );
    let relative = grpc("--for cpp --tls-ca ca.pem");
    let config = &relative["xds_servers"][0]["channel_creds"][0]["config"];
    let here = absolute("ca.pem").unwrap();
    assert_eq!(*config, json!({"ca_certificate_file": here.to_str().unwrap()}));
}

#[test]
fn https_means_tls_with_authorities_of_the_system() {
    for (client, uri) in [("go", "registry:8503"), ("java", "registry:8503"), ("rust", "https://registry:8503")] {
        let bootstrap = grpc(&format!("--for {client} --server https://registry:8503"));
        assert_eq!(bootstrap["xds_servers"][0]["server_uri"], uri);
        assert_eq!(bootstrap["xds_servers"][0]["channel_creds"], json!([{"type": "tls", "config": {}}]));
    }
}

#[test]
fn several_servers_become_a_list_where_the_client_falls_back() {
    for client in ["go", "java", "python", "ruby", "php", "cpp"] {
        let bootstrap = grpc(&format!("--for {client} --server a:1 --server b:2"));
        let servers = bootstrap["xds_servers"].as_array().unwrap();
        assert_eq!(servers.iter().map(|server| &server["server_uri"]).collect::<Vec<_>>(), ["a:1", "b:2"]);
    }
}

#[test]
fn several_ip_addresses_become_one_target_for_node() {
    for (servers, target) in [
        ("10.0.0.1:8502,http://10.0.0.2:8502", "ipv4:10.0.0.1:8502,10.0.0.2:8502"),
        ("[::1]:8502,[::2]:8502", "ipv6:[::1]:8502,[::2]:8502"),
        ("10.0.0.1:8502", "10.0.0.1:8502"),
    ] {
        let bootstrap = grpc(&format!("--for node --server {servers}"));
        assert_eq!(bootstrap["xds_servers"].as_array().unwrap().len(), 1);
        assert_eq!(bootstrap["xds_servers"][0]["server_uri"], target);
    }
}

#[test]
fn several_servers_are_endpoints_of_one_cluster_for_envoy() {
    let cluster = |line: &str| envoy(line)["static_resources"]["clusters"][0].clone();
    let addresses = |cluster: &Value| {
        let endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"].as_array().unwrap().clone();
        let endpoints = endpoints.iter().map(|endpoint| endpoint["endpoint"]["address"]["socket_address"].clone());
        endpoints.collect::<Vec<_>>()
    };
    let ips = cluster("--server 10.0.0.1:8502,[::1]:8503");
    let expected = [("10.0.0.1", 8502), ("::1", 8503)];
    let expected = expected.map(|(address, port)| json!({"address": address, "port_value": port}));
    assert_eq!((&ips["type"], addresses(&ips)), (&"STATIC".into(), expected.to_vec()));
    let names = cluster("--server a:1,b:2,10.0.0.1:3 --tls-ca /ca.pem");
    assert_eq!((&names["type"], addresses(&names).len()), (&"STRICT_DNS".into(), 3));
    let tls = &names["transport_socket"]["typed_config"];
    assert_eq!(tls["sni"], "a");
    assert_eq!(
        tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"],
        json!([
            {"san_type": "DNS", "matcher": {"exact": "a"}},
            {"san_type": "DNS", "matcher": {"exact": "b"}},
            {"san_type": "IP_ADDRESS", "matcher": {"exact": "10.0.0.1"}},
        ])
    );
}

#[test]
fn arguments_that_the_client_cannot_use_are_rejected_with_a_remedy() {
    for (line, parts) in [
        ("--for node --tls-ca ca.pem", ["without TLS only", "--grpc"]),
        ("--for node --server https://a:1", ["without TLS only", "--tls flags"]),
        ("--for go --tls-server-name a", ["--tls-server-name", "name of the certificate in --server"]),
        ("--for java --tls-ca ca.pem", ["no files for TLS", "-Djavax.net.ssl.trustStore"]),
        ("--for java --server https://a:1 --tls-cert a.pem --tls-key a.key", ["no files for TLS", "omit --tls-ca"]),
        ("--for rust --tls-ca ca.pem --server http://a:1", ["`http://a:1` means no TLS", "https://"]),
        ("--for envoy --server https://a:1", ["trusts no authority", "--tls-ca"]),
        ("--for node --server a:1 --server b:2", ["node uses several addresses only if", "resolves to all replicas"]),
        ("--for node --server 10.0.0.1:1,[::1]:2", ["all are IPv4 or all are IPv6", "resolves to all replicas"]),
        ("--for rust --server a:1,b:2", ["rust uses one address only", "resolves to all replicas"]),
        ("--for go --delta", ["a bootstrap for go does not have", "--for envoy"]),
        ("--for go --service web", ["a bootstrap for go does not have", "--for envoy"]),
        ("--for java --admin 127.0.0.1:1", ["a bootstrap for java does not have", "--for envoy"]),
        ("--for envoy --listen 127.0.0.1:1", ["--service <NAME>", "required"]),
        ("--for go --locality a/b/c/d", ["more than three parts", "REGION/ZONE/SUB-ZONE"]),
        ("--for go --server nowhere", ["the port is missing", "127.0.0.1:8502"]),
        ("--for perl", ["perl", "possible values: go, java"]),
    ] {
        let error = text(line).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}

#[test]
fn envoy_asks_for_all_clusters_over_a_static_cluster() {
    let config = envoy("--server 10.0.0.1:8502 --node-id e --locality eu");
    assert_eq!(config["node"]["id"], "e");
    assert_eq!(config["node"]["locality"], json!({"region": "eu", "zone": "", "sub_zone": ""}));
    let resources = &config["dynamic_resources"];
    assert_eq!(resources["ads_config"]["api_type"], "GRPC");
    assert_eq!(resources["cds_config"], json!({"resource_api_version": "V3", "ads": {}}));
    let cluster = &config["static_resources"]["clusters"][0];
    assert_eq!(cluster["type"], "STATIC");
    assert_eq!(resources["ads_config"]["grpc_services"], json!([{"envoy_grpc": {"cluster_name": cluster["name"]}}]));
    assert_eq!(
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"],
        json!({"address": "10.0.0.1", "port_value": 8502})
    );
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let options = &cluster["typed_extension_protocol_options"][options]["explicit_http_config"];
    assert!(options["http2_protocol_options"].is_object());
    assert_eq!(cluster.get("transport_socket"), None);
    assert_eq!(config["static_resources"].get("listeners"), None);
    assert_eq!(config.get("admin"), None);
}

#[test]
fn envoy_listens_for_a_service() {
    let config = envoy("--delta --service web --listen [::1]:80 --admin 127.0.0.1:9901");
    assert_eq!(config["dynamic_resources"]["ads_config"]["api_type"], "DELTA_GRPC");
    assert_eq!(config["admin"]["address"]["socket_address"], json!({"address": "127.0.0.1", "port_value": 9901}));
    let listener = &config["static_resources"]["listeners"][0];
    assert_eq!(listener["address"]["socket_address"], json!({"address": "::1", "port_value": 80}));
    let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(
        manager["rds"],
        json!({"route_config_name": "web", "config_source": {"resource_api_version": "V3", "ads": {}}})
    );
    assert_eq!(manager["http_filters"][0]["name"], "envoy.filters.http.router");
    let address = &envoy("--service web")["static_resources"]["listeners"][0]["address"]["socket_address"];
    assert_eq!(*address, json!({"address": "127.0.0.1", "port_value": 10000}));
}

#[test]
fn envoy_verifies_the_name_of_the_registry() {
    let context = |line: &str| {
        let config = envoy(line);
        let context = &config["static_resources"]["clusters"][0]["transport_socket"]["typed_config"];
        assert_eq!(config["static_resources"]["clusters"][0]["dns_lookup_family"], "ALL");
        (config["static_resources"]["clusters"][0]["type"].clone(), context.clone())
    };
    let (discovery, tls) = context("--server registry:8503 --tls-ca /ca.pem --tls-cert /me.pem --tls-key /me.key");
    assert_eq!(discovery, "STRICT_DNS");
    assert_eq!(tls["sni"], "registry");
    assert_eq!(
        tls["common_tls_context"],
        json!({
            "alpn_protocols": ["h2"],
            "validation_context": {
                "trusted_ca": {"filename": "/ca.pem"},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "registry"}}],
            },
            "tls_certificates": [{"certificate_chain": {"filename": "/me.pem"}, "private_key": {"filename": "/me.key"}}],
        })
    );
    let (discovery, tls) = context("--server [::1]:8503 --tls-ca /ca.pem");
    assert_eq!((discovery, tls.get("sni")), (Value::from("STATIC"), None));
    let names = &tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"];
    assert_eq!(*names, json!([{"san_type": "IP_ADDRESS", "matcher": {"exact": "::1"}}]));
    let (_, tls) = context("--server [::1]:8503 --tls-ca /ca.pem --tls-server-name registry");
    assert_eq!(tls["sni"], "registry");
}

#[test]
fn quotes_and_line_breaks_cannot_leave_a_value_of_envoy() {
    let node = BootstrapNode {
        id: "a\"\n: {}#\u{2028}é".to_owned(),
        cluster: "- yes".to_owned(),
        locality: NodeLocality::default(),
    };
    let bootstrap = Bootstrap { servers: vec!["a:1".to_owned()], tls: None, node };
    let text = envoy::yaml(&bootstrap, &envoy::EnvoyOptions::default()).unwrap();
    let config: Value = serde_yaml_ng::from_str(&text).unwrap();
    assert_eq!(config["node"]["id"], "a\"\n: {}#\u{2028}é");
    assert_eq!(config["node"]["cluster"], "- yes");
}
