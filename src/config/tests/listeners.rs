//! Where it may listen, and who may be let in there.

use super::{config, refusal};
use crate::config::{Config, ServeArgs};

const FILES: [&str; 4] = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
const CLIENTS: [&str; 2] = ["--tls-client-ca", "ca.pem"];

#[test]
fn other_machines_are_let_in_only_by_consent() {
    for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
        for (flag, text) in [("--grpc", "CALLBOARD_GRPC"), ("--http", "CALLBOARD_HTTP")] {
            let message = refusal(&[flag, address], &[], "");
            assert!(message.starts_with(&format!("{flag}: {address} can be reached from other machines")), "{message}");
            assert!(message.contains(&format!("{flag}-tls and --tls-client-ca")), "{message}");
            assert!(message.contains("--allow-insecure-remote"), "{message}");
            let message = refusal(&[], &[(text, address)], "");
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
fn tls_lets_other_machines_in_when_clients_have_certificates() {
    for flag in ["--grpc-tls", "--http-tls"] {
        let listener = [flag, "0.0.0.0:1"];
        let message = refusal(&[&listener[..], &FILES].concat(), &[], "");
        assert!(
            message.starts_with(&format!("{flag}: 0.0.0.0:1 can be reached from other machines, and")),
            "{message}"
        );
        assert!(message.contains("--tls-client-ca") && message.contains("--allow-insecure-remote"), "{message}");
        assert!(config(&[&listener[..], &FILES, &CLIENTS].concat(), &[], "").is_ok());
        assert!(config(&[&listener[..], &FILES, &["--allow-insecure-remote"]].concat(), &[], "").is_ok());
        assert!(config(&[&[flag, "127.0.0.1:1"][..], &FILES].concat(), &[], "").is_ok(), "on loopback");
    }
    let second = [&["--grpc-tls", "127.0.0.1:1", "--http-tls", "192.0.2.1:2"][..], &FILES].concat();
    assert!(refusal(&second, &[], "").starts_with("--http-tls: 192.0.2.1:2"), "each listener is looked at");
}

#[test]
fn plaintext_is_not_let_out_by_a_client_ca() {
    let plain = [&["--grpc", "0.0.0.0:1", "--grpc-tls", "0.0.0.0:2"][..], &FILES, &CLIENTS].concat();
    assert!(refusal(&plain, &[], "").starts_with("--grpc: 0.0.0.0:1"));
}

#[test]
fn health_alone_may_be_anywhere() {
    assert!(config(&["--health", "0.0.0.0:1"], &[], "").unwrap().exposed().is_empty());
}

#[test]
fn tls_needs_a_certificate_and_its_key() {
    let listener = ["--grpc-tls", "127.0.0.1:1"];
    let message = refusal(&listener, &[], "");
    assert_eq!(message, "--grpc-tls: 127.0.0.1:1 is to speak TLS, but --tls-cert is missing; name the file with it");
    let message = refusal(&[&listener[..], &FILES[..2]].concat(), &[], "");
    assert!(message.contains("--tls-key is missing"), "{message}");
    let message = refusal(&[&listener[..], &FILES[2..]].concat(), &[], "");
    assert!(message.contains("--tls-cert is missing"), "{message}");
    let message = refusal(&listener, &[], "tls_cert = ''");
    assert_eq!(message, "callboard.toml:1: tls_cert: \"\" names no file; write a path");
}

#[test]
fn files_that_nobody_uses_are_noticed_but_for_the_variables_of_clients() {
    let message = refusal(&FILES, &[], "");
    assert!(message.starts_with("--tls-cert: no listener speaks TLS; add --grpc-tls or --http-tls"), "{message}");
    assert!(refusal(&[], &[], "tls_client_ca = 'ca.pem'").starts_with("callboard.toml:1: tls_client_ca: no listener"));
    let variables = [("CALLBOARD_TLS_CERT", "mine.pem"), ("CALLBOARD_TLS_KEY", "mine.key")];
    assert_eq!(config(&[], &variables, "").unwrap().tls, None);
}

#[test]
fn what_is_open_by_consent_is_known() {
    let open = |flags: &[&str]| {
        let config = config(&[flags, &["--allow-insecure-remote"]].concat(), &[], "").unwrap();
        config.exposed().into_iter().map(|(key, address, what)| format!("{key} {address}: {what}")).collect::<Vec<_>>()
    };
    assert_eq!(open(&[]), [""; 0]);
    assert_eq!(open(&["--grpc", "0.0.0.0:1"]), ["grpc 0.0.0.0:1: read and change every registration"]);
    assert_eq!(open(&["--dns", "0.0.0.0:1"]), ["dns 0.0.0.0:1: ask who is registered"]);
    let tls = [&["--grpc-tls", "0.0.0.0:1", "--http-tls", "[::]:2"][..], &FILES].concat();
    let open_tls = open(&tls);
    assert!(
        open_tls[0].starts_with("grpc_tls 0.0.0.0:1: ") && open_tls[1].starts_with("http_tls [::]:2: "),
        "{open_tls:?}"
    );
    assert_eq!(open(&[&tls[..], &CLIENTS].concat()), [""; 0]);
}

#[test]
fn two_listeners_need_two_addresses() {
    let message = refusal(&["--grpc", "127.0.0.1:8500"], &[], "");
    assert!(message.starts_with("grpc and http both listen on 127.0.0.1:8500; give"), "{message}");
    let message = refusal(&["--health", "127.0.0.1:8502"], &[], "");
    assert!(message.starts_with("grpc and health both listen on 127.0.0.1:8502; give"), "{message}");
    assert!(config(&["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--health", "127.0.0.1:0"], &[], "").is_ok());
}

#[test]
fn listeners_without_tls_can_be_off() {
    let tls = [&["--grpc-tls", "127.0.0.1:1", "--grpc", "off", "--http", "off"][..], &FILES].concat();
    let config = config(&tls, &[], "").unwrap();
    assert_eq!((config.grpc, config.http), (None, None));
    let message = refusal(&["--grpc", "off"], &[], "");
    assert!(message.contains("nobody could register"), "{message}");
    assert!(refusal(&["--grpc-tls", "off"], &[], "").contains("is not an address"));
}

#[test]
fn an_inherited_socket_wins_and_is_held_to_the_same_rules() {
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
    assert!(
        message.ends_with("write FileDescriptorName= with one of grpc, http, grpc_tls, http_tls, health"),
        "{message}"
    );
}
