//! Tests of the listeners' addresses.

use super::{config, error_of};
use crate::config::{Config, ServeArgs};

const FILES: [&str; 4] = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
const CLIENT_CA: [&str; 2] = ["--tls-client-ca", "ca.pem"];

#[test]
fn remote_address_without_tls_needs_allow_insecure_remote() {
    for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
        for (flag, text) in [("--grpc", "CALLBOARD_GRPC"), ("--http", "CALLBOARD_HTTP")] {
            let message = error_of(&[flag, address], &[], "");
            assert!(message.starts_with(&format!("{flag}: {address} can be reached from other machines")), "{message}");
            assert!(message.contains(&format!("{flag}-tls and --tls-client-ca")), "{message}");
            assert!(message.contains("--allow-insecure-remote"), "{message}");
            let message = error_of(&[], &[(text, address)], "");
            assert!(message.starts_with(text), "{message}");
            assert!(config(&[flag, address, "--allow-insecure-remote"], &[], "").is_ok());
            assert!(config(&[flag, address], &[], "allow_insecure_remote = true").is_ok());
        }
    }
    for address in ["127.0.0.1:0", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1"] {
        assert!(config(&["--grpc", address], &[], "").is_ok(), "{address}");
    }
}

#[test]
fn remote_address_with_tls_needs_client_certificates() {
    for flag in ["--grpc-tls", "--http-tls"] {
        let listener = [flag, "0.0.0.0:1"];
        let message = error_of(&[&listener[..], &FILES].concat(), &[], "");
        assert!(message.starts_with(&format!("{flag}: 0.0.0.0:1 can be reached from other machines and")), "{message}");
        assert!(message.contains("--tls-client-ca") && message.contains("--allow-insecure-remote"), "{message}");
        assert!(config(&[&listener[..], &FILES, &CLIENT_CA].concat(), &[], "").is_ok());
        assert!(config(&[&listener[..], &FILES, &["--allow-insecure-remote"]].concat(), &[], "").is_ok());
        assert!(config(&[&[flag, "127.0.0.1:1"][..], &FILES].concat(), &[], "").is_ok(), "on loopback");
    }
    let second = [&["--grpc-tls", "127.0.0.1:1", "--http-tls", "192.0.2.1:2"][..], &FILES].concat();
    assert!(error_of(&second, &[], "").starts_with("--http-tls: 192.0.2.1:2"), "each listener is checked");
}

#[test]
fn client_ca_does_not_permit_remote_plaintext() {
    let plain = [&["--grpc", "0.0.0.0:1", "--grpc-tls", "0.0.0.0:2"][..], &FILES, &CLIENT_CA].concat();
    assert!(error_of(&plain, &[], "").starts_with("--grpc: 0.0.0.0:1"));
}

#[test]
fn health_listener_may_be_remote() {
    assert!(config(&["--health", "0.0.0.0:1"], &[], "").unwrap().exposed().is_empty());
}

#[test]
fn tls_listener_needs_a_certificate_and_its_key() {
    let listener = ["--grpc-tls", "127.0.0.1:1"];
    let message = error_of(&listener, &[], "");
    assert_eq!(message, "--grpc-tls: 127.0.0.1:1 needs TLS files, but --tls-cert is not set; name the file with it");
    let message = error_of(&[&listener[..], &FILES[..2]].concat(), &[], "");
    assert!(message.contains("--tls-key is not set"), "{message}");
    let message = error_of(&[&listener[..], &FILES[2..]].concat(), &[], "");
    assert!(message.contains("--tls-cert is not set"), "{message}");
    let message = error_of(&listener, &[], "tls_cert = ''");
    assert_eq!(message, "callboard.toml:1: tls_cert: \"\" is empty; write the path of a file");
}

#[test]
fn unused_tls_files_are_rejected_unless_set_by_variables() {
    let message = error_of(&FILES, &[], "");
    assert!(message.starts_with("--tls-cert: no listener has TLS; add --grpc-tls or --http-tls"), "{message}");
    assert!(error_of(&[], &[], "tls_client_ca = 'ca.pem'").starts_with("callboard.toml:1: tls_client_ca: no listener"));
    let variables = [("CALLBOARD_TLS_CERT", "mine.pem"), ("CALLBOARD_TLS_KEY", "mine.key")];
    assert_eq!(config(&[], &variables, "").unwrap().tls, None);
}

#[test]
fn exposed_lists_unauthenticated_remote_listeners() {
    let open = |flags: &[&str]| {
        let config = config(&[flags, &["--allow-insecure-remote"]].concat(), &[], "").unwrap();
        config.exposed().into_iter().map(|(key, address, what)| format!("{key} {address}: {what}")).collect::<Vec<_>>()
    };
    assert_eq!(open(&[]), [""; 0]);
    assert_eq!(open(&["--grpc", "0.0.0.0:1"]), ["grpc 0.0.0.0:1: read and change every registration"]);
    assert_eq!(open(&["--dns", "0.0.0.0:1"]), ["dns 0.0.0.0:1: look up every registration"]);
    let tls = [&["--grpc-tls", "0.0.0.0:1", "--http-tls", "[::]:2"][..], &FILES].concat();
    let open_tls = open(&tls);
    assert!(
        open_tls[0].starts_with("grpc_tls 0.0.0.0:1: ") && open_tls[1].starts_with("http_tls [::]:2: "),
        "{open_tls:?}"
    );
    assert_eq!(open(&[&tls[..], &CLIENT_CA].concat()), [""; 0]);
}

#[test]
fn two_listeners_on_one_address_are_rejected() {
    let message = error_of(&["--grpc", "127.0.0.1:8500"], &[], "");
    assert!(message.starts_with("grpc and http both listen on 127.0.0.1:8500; give"), "{message}");
    let message = error_of(&["--health", "127.0.0.1:8502"], &[], "");
    assert!(message.starts_with("grpc and health both listen on 127.0.0.1:8502; give"), "{message}");
    assert!(config(&["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--health", "127.0.0.1:0"], &[], "").is_ok());
}

#[test]
fn listeners_without_tls_can_be_off() {
    let tls = [&["--grpc-tls", "127.0.0.1:1", "--grpc", "off", "--http", "off"][..], &FILES].concat();
    let config = config(&tls, &[], "").unwrap();
    assert_eq!((config.grpc, config.http), (None, None));
    let message = error_of(&["--grpc", "off"], &[], "");
    assert!(message.contains("no gRPC listener is left"), "{message}");
    assert!(error_of(&["--grpc-tls", "off"], &[], "").contains("is not an address"));
}

#[test]
fn inherited_socket_wins_and_follows_the_same_rules() {
    let load = |name: &str, address: &str, more: ServeArgs| {
        let grpc = Some("127.0.0.1:1".to_owned());
        Config::load(&ServeArgs { grpc, ..more }, &[(name.to_owned(), address.parse().unwrap())])
    };
    let config = load("grpc", "[::1]:7", ServeArgs::default()).unwrap();
    assert_eq!((config.grpc, config.http), (Some("[::1]:7".parse().unwrap()), Config::default().http));
    let message = load("http", "0.0.0.0:7", ServeArgs::default()).unwrap_err().to_string();
    assert!(
        message.starts_with("the inherited socket http: 0.0.0.0:7 can be reached from other machines"),
        "{message}"
    );
    assert!(load("http", "0.0.0.0:7", ServeArgs { allow_insecure_remote: true, ..ServeArgs::default() }).is_ok());
    let message = load("grpc_tls", "0.0.0.0:7", ServeArgs::default()).unwrap_err().to_string();
    assert!(message.contains("--tls-cert"), "{message}");
    let message = load("callboard.socket", "127.0.0.1:7", ServeArgs::default()).unwrap_err().to_string();
    assert!(message.ends_with("set FileDescriptorName= to one of grpc, http, grpc_tls, http_tls, health"), "{message}");
}
