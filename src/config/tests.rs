//! Tests of the configuration: precedence of the places, and errors.

use std::collections::BTreeMap;
use std::env::VarError;
use std::path::Path;
use std::time::Duration;

mod listeners;

use clap::{CommandFactory as _, Parser};

use super::{
    Config, ConfigError, ReadyFormat, ServeArgs, SettingKey, TlsFiles, environment, file, host_name, node_name, value,
};
use crate::telemetry::LogFormat;

#[derive(Parser, Debug)]
struct TestCommand {
    #[command(flatten)]
    serve: ServeArgs,
}

/// Returns the configuration of these flags, variables and file.
fn config(flags: &[&str], variables: &[(&str, &str)], text: &str) -> Result<Config, ConfigError> {
    let args = TestCommand::try_parse_from([&["serve"], flags].concat()).unwrap().serve;
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    let environment =
        environment(|name| variables.get(name).map(|text| (*text).to_owned()).ok_or(VarError::NotPresent))?;
    let file = file::parse(Path::new("callboard.toml"), text)?;
    Config::resolve(&[args.raw_settings(), environment, file])
}

/// Returns the error of these flags, variables and file.
fn error_of(flags: &[&str], variables: &[(&str, &str)], text: &str) -> String {
    config(flags, variables, text).unwrap_err().to_string()
}

#[test]
fn settings_of_etcd_have_defaults_and_need_each_other() {
    let etcd = config(&["--etcd", "http://10.0.0.1:2379,https://b:2379"], &[], "").unwrap().etcd.unwrap();
    assert_eq!(etcd.endpoints, ["http://10.0.0.1:2379", "https://b:2379"]);
    assert_eq!((&*etcd.cluster, etcd.user, etcd.certificate), ("default", None, None));
    let urls = &["--etcd", "http://a:2379"][..];
    let error = error_of(&[urls, &["--etcd-user", "me"]].concat(), &[], "");
    assert_eq!(error, "--etcd-user: needs --etcd-password-file, which is not set; set it, or remove this setting");
    let error = error_of(&[urls, &["--data-dir", "/tmp/x"]].concat(), &[], "");
    assert_eq!(error, "--data-dir: the registry is stored in etcd (--etcd); remove one of the two settings");
    let error = error_of(&["--cluster", "eu"], &[], "");
    assert_eq!(error, "--cluster: needs --etcd, which is not set; set it, or remove this setting");
    let error = error_of(&["--etcd", "10.0.0.1:2379"], &[], "");
    assert!(error.contains("contains \"10.0.0.1:2379\", which is not a URL of a member of etcd"), "{error}");
}

#[test]
fn export_is_read_by_a_registry_in_memory_only() {
    let flag = &["--import", "registry.jsonl"][..];
    let import =
        |flags: &[&str], variables: &[(&str, &str)], text| config(flags, variables, text).unwrap().import.unwrap();
    assert_eq!(import(flag, &[], "import = \"other.jsonl\""), Path::new("registry.jsonl"));
    assert_eq!(import(&[], &[("CALLBOARD_IMPORT", "a")], ""), Path::new("a"));
    assert_eq!(import(&[], &[], "import = \"b\""), Path::new("b"));
    for (store, name) in [(["--data-dir", "/tmp/x"], "--data-dir"), (["--etcd", "http://a:2379"], "--etcd")] {
        let error = error_of(&[flag, &store].concat(), &[], "");
        let expected =
            format!("--import: only a registry in memory reads an export at its start, and {name} names a store; ");
        assert!(error.starts_with(&expected) && error.contains("`callboard import`"), "{error}");
    }
    let error = error_of(&[], &[("CALLBOARD_IMPORT", "a")], "data_dir = \"/tmp/x\"");
    assert!(error.starts_with("CALLBOARD_IMPORT: ") && error.contains("callboard.toml:1: data_dir names"), "{error}");
    assert!(error_of(&["--import", ""], &[], "").ends_with("is empty; write the path of a file"));
}

#[test]
fn config_without_settings_is_the_default() {
    let config = config(&[], &[], "").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.grpc.unwrap().to_string(), "127.0.0.1:8502");
    assert_eq!(config.http.unwrap().to_string(), "127.0.0.1:8500");
    assert_eq!(config.max_message_size, 262_144);
    assert_eq!(config.max_streams_per_connection.get(), 1024);
    assert_eq!(config.bookmark_interval, Duration::from_secs(15));
    assert_eq!(config.settle, Duration::from_secs(10));
}

#[test]
fn flags_win_over_environment_over_file() {
    let text = "workers = 2\nbookmark_interval = \"2s\"\nlog_format = \"json\"";
    let variables = [("CALLBOARD_WORKERS", "3"), ("CALLBOARD_BOOKMARK_INTERVAL", "3s")];
    let config = config(&["--workers", "4"], &variables, text).unwrap();
    assert_eq!(config.workers.get(), 4);
    assert_eq!(config.bookmark_interval, Duration::from_secs(3));
    assert_eq!(config.log_format, LogFormat::Json);
}

#[test]
fn every_key_can_be_set_in_every_place() {
    let values = [
        (SettingKey::Grpc, "127.0.0.1:1"),
        (SettingKey::Http, "[::1]:2"),
        (SettingKey::HttpHost, "Registry.example.com.,callboard"),
        (SettingKey::GrpcTls, "192.0.2.1:3"),
        (SettingKey::HttpTls, "127.0.0.1:4"),
        (SettingKey::Health, "0.0.0.0:5"),
        (SettingKey::TlsCert, "/tls/cert.pem"),
        (SettingKey::TlsKey, "/tls/key.pem"),
        (SettingKey::TlsClientCa, "/tls/ca.pem"),
        (SettingKey::Workers, "3"),
        (SettingKey::MaxMessageSize, "1MiB"),
        (SettingKey::MaxStreamsPerConnection, "5"),
        (SettingKey::MaxConnections, "11"),
        (SettingKey::MaxConnectionsPerAddress, "12"),
        (SettingKey::MaxStreams, "13"),
        (SettingKey::MaxStreamsPerAddress, "14"),
        (SettingKey::MaxCancelledCallsPerSecond, "18"),
        (SettingKey::MaxUnreadResponses, "32MiB"),
        (SettingKey::MaxConnectionAge, "15m"),
        (SettingKey::MaxConnectionAgeGrace, "16s"),
        (SettingKey::HandshakeTimeout, "17s"),
        (SettingKey::BookmarkInterval, "6s"),
        (SettingKey::Settle, "0"),
        (SettingKey::LogFormat, "pretty"),
        (SettingKey::Log, "debug"),
    ];
    let flags: Vec<_> = values.iter().flat_map(|(key, value)| [key.flag(), (*value).to_owned()]).collect();
    let flags = config(&flags.iter().map(String::as_str).collect::<Vec<_>>(), &[], "").unwrap();

    let variables: Vec<_> = values.iter().map(|(key, value)| (key.variable(), *value)).collect();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let variables = config(&[], &variables, "").unwrap();

    let text: Vec<_> = values.iter().map(|(key, value)| format!("{} = {value:?}", key.name())).collect();
    let file = config(&[], &[], &text.join("\n")).unwrap();

    assert_eq!(flags, variables);
    assert_eq!(flags, file);
    let default = Config::default();
    assert!(flags.grpc != default.grpc && flags.http != default.http);
    assert_eq!(flags.http_hosts, ["registry.example.com", "callboard"]);
    assert_eq!(flags.grpc_tls.unwrap().to_string(), "192.0.2.1:3");
    assert_eq!((flags.http_tls.unwrap().port(), flags.health.unwrap().port()), (4, 5));
    let client_ca = Some("/tls/ca.pem".into());
    let tls = TlsFiles { cert: "/tls/cert.pem".into(), key: "/tls/key.pem".into(), client_ca };
    assert_eq!(flags.tls, Some(tls));
    assert!(flags.max_message_size == 1 << 20 && flags.max_streams_per_connection.get() == 5);
    assert!(flags.settle.is_zero());
    assert!(flags.log_format == LogFormat::Pretty && flags.log != default.log);
    let limits = [flags.max_connections, flags.max_connections_per_address, flags.max_streams_per_address];
    assert_eq!(limits.map(|limit| limit.unwrap().get()), [11, 12, 14]);
    assert_eq!((flags.max_streams.get(), flags.max_cancelled_calls_per_second.get()), (13, 18));
    assert_eq!(flags.max_unread_responses, 32 << 20);
    let times = [flags.max_connection_age.unwrap(), flags.max_connection_age_grace, flags.handshake_timeout];
    assert_eq!(times.map(|time| time.as_secs()), [15 * 60, 16, 17]);
}

#[test]
fn every_key_is_a_flag() {
    let command = TestCommand::command();
    for key in SettingKey::ALL {
        let flag = key.flag();
        let found = command.get_arguments().find(|arg| arg.get_long() == flag.strip_prefix("--"));
        assert!(found.is_some(), "{flag} is missing");
    }
    command.debug_assert();
}

#[test]
fn ready_line_is_for_people_by_default() {
    let output = |flags: &[&str]| TestCommand::try_parse_from([&["serve"], flags].concat()).unwrap().serve.output;
    assert_eq!(output(&[]), ReadyFormat::Table);
    assert_eq!(output(&["-o", "json"]), ReadyFormat::Json);
}

#[test]
fn empty_variable_counts_as_not_set() {
    assert_eq!(config(&[], &[("CALLBOARD_WORKERS", "")], "").unwrap(), Config::default());
}

#[test]
fn numbers_and_booleans_need_no_quotes_in_the_file() {
    let config =
        config(&[], &[], "workers = 3\nmax_message_size = 1_048_576\nallow_insecure_remote = true\ngrpc = '0.0.0.0:1'");
    let config = config.unwrap();
    assert_eq!((config.workers.get(), config.max_message_size), (3, 1 << 20));
    assert_eq!(config.grpc.unwrap().to_string(), "0.0.0.0:1");
}

#[test]
fn invalid_value_is_rejected_with_a_hint() {
    let number = "is not a whole number; write 1 to 63";
    let size = "is not a size; write 64KiB to 64MiB, or a number of bytes";
    let size_range = "is out of range; write 64KiB to 64MiB, or a number of bytes";
    let time = "is not a duration; write 10ms to 1h, with a unit, such as 15s";
    let time_range = "is out of range; write 10ms to 1h, with a unit, such as 15s";
    let age = "is not a duration; write 1s to 24h, with a unit, such as 30m, or off";
    let address =
        "is not an address; write IP:PORT, such as 127.0.0.1:8502 or [::1]:8502; port 0 means any free port, or off";
    let cases = [
        ("workers", "many", number),
        ("workers", "1.5", number),
        ("workers", "-", number),
        ("workers", "0", "is out of range; write 1 to 63"),
        ("workers", "-1", "is out of range; write 1 to 63"),
        ("max_streams_per_connection", "99999999999999999999", "is out of range; write 1 to 1000000"),
        ("max_connections", "0", "is out of range; write 1 to 1000000"),
        ("max_connections_per_address", "all", "is not a whole number; write 1 to 1000000"),
        ("max_streams", "-5", "is out of range; write 1 to 1000000"),
        ("max_streams_per_address", "1e6", "is not a whole number; write 1 to 1000000"),
        ("max_connection_age", "30", age),
        ("max_connection_age", "never", age),
        ("max_connection_age", "10ms", "is out of range; write 1s to 24h, with a unit, such as 30m, or off"),
        ("max_connection_age_grace", "off", time),
        ("handshake_timeout", "soon", time),
        ("handshake_timeout", "0s", time_range),
        ("max_message_size", "300 KB", size),
        ("max_message_size", "KiB", size),
        ("max_message_size", "1KiB", size_range),
        ("max_message_size", "99999999999999999999MiB", size_range),
        ("bookmark_interval", "15", time),
        ("bookmark_interval", "1ms", time_range),
        ("bookmark_interval", "2days", time_range),
        ("settle", "10", "is not a duration; write 100ms to 10min, with a unit, such as 10s, or 0"),
        ("settle", "1h", "is out of range; write 100ms to 10min, with a unit, such as 10s, or 0"),
        ("grpc", ":8502", address),
        ("http", "localhost", address),
        ("allow_insecure_remote", "yes", "is neither true nor false; write true or false"),
        ("log_format", "xml", "is not a log format; write auto, pretty or json"),
    ];
    for (name, value, error) in cases {
        let message = error_of(&[], &[], &format!("\n{name} = {value:?}"));
        assert_eq!(message, format!("callboard.toml:2: {name}: {value:?} {error}"));
    }
}

#[test]
fn http_host_repeats_and_takes_names_without_ports() {
    let hosts = config(&["--http-host", "a.example", "--http-host", "b,c"], &[], "").unwrap().http_hosts;
    assert_eq!(hosts, ["a.example", "b", "c"]);
    for invalid in ["", "a:8500", "a..b", "http://a", "*", "a b"] {
        let message = error_of(&["--http-host", invalid], &[], "");
        assert!(
            message.starts_with(&format!(
                "--http-host: {invalid:?} contains {invalid:?}, which is not a host name; write"
            )),
            "{message}"
        );
    }
}

#[test]
fn max_connection_age_can_be_turned_off() {
    for off in ["off", "0"] {
        assert_eq!(config(&["--max-connection-age", off], &[], "").unwrap().max_connection_age, None);
    }
    assert_eq!(config(&[], &[], "max_connection_age = 0").unwrap().max_connection_age, None);
}

#[test]
fn error_names_the_place_of_the_value() {
    let error = r#""x" is not a whole number; write 1 to 63"#;
    assert_eq!(error_of(&["--workers", "x"], &[("CALLBOARD_WORKERS", "1")], ""), format!("--workers: {error}"));
    assert_eq!(error_of(&[], &[("CALLBOARD_WORKERS", "x")], "workers = 1"), format!("CALLBOARD_WORKERS: {error}"));
    assert_eq!(error_of(&[], &[], "# here\nworkers = 'x'"), format!("callboard.toml:2: workers: {error}"));
}

#[test]
fn value_of_wrong_type_in_the_file_is_quoted_as_written() {
    let error = |text| error_of(&[], &[], text);
    assert_eq!(
        error("workers = [1, 2]"),
        r#"callboard.toml:1: workers: "[1, 2]" is not a whole number; write 1 to 63"#
    );
    assert!(error("workers = 0x10").contains(r#""0x10" is not a whole number"#));
    assert!(error("bookmark_interval = 15").contains(r#""15" is not a duration"#));
    assert!(error("grpc = { port = 1 }").contains(r#""{ port = 1 }" is not an address"#));
}

#[test]
fn invalid_log_filter_is_rejected() {
    let message = error_of(&["--log", "inof"], &[], "");
    assert!(
        message.starts_with(r#"--log: "inof" is not a log filter ("inof" is not a log level); write a level"#),
        "{message}"
    );
}

#[test]
fn unknown_key_is_rejected_with_the_most_similar_one() {
    let cases = [
        ("workers = 1\nwokers = 2", "callboard.toml:2: wokers: unknown key; write workers"),
        ("max-message-size = 1", "callboard.toml:1: max-message-size: unknown key; write max_message_size"),
        (
            "bookmark_intervall = '1s'\nzzz = 1",
            "callboard.toml:1: bookmark_intervall: unknown key; write bookmark_interval",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(error_of(&[], &[], text), message);
    }
    let message = error_of(&[], &[], "[garden]\nrose = 'a'");
    assert!(message.starts_with("callboard.toml:1: garden: unknown key; the keys are grpc, http, "), "{message}");
    assert!(error_of(&[], &[], "config = 'other.toml'").contains("config: unknown key"));
}

#[test]
fn invalid_toml_is_rejected_with_its_line() {
    let message = error_of(&[], &[], "workers = 1\ngrpc = 127.0.0.1:8502");
    assert!(message.starts_with("callboard.toml:2: "), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn file_is_read_from_the_path_of_the_flag() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("callboard.toml");
    std::fs::write(&path, "workers = 7").unwrap();
    let load = |path: &Path| {
        let args = ServeArgs { config: Some(path.to_owned()), ..ServeArgs::default() };
        Config::load(&args, &[])
    };
    assert_eq!(load(&path).unwrap().workers.get(), 7);

    let absent = load(&directory.path().join("absent.toml")).unwrap_err();
    assert!(matches!(&absent, ConfigError::Unreadable { .. }), "{absent:?}");
    assert!(absent.to_string().contains("absent.toml; check that the file exists"), "{absent}");
}

#[test]
fn misspelt_variables_are_found_among_others() {
    let names = [
        "CALLBOARD_GRCP",
        "CALLBOARD_LOG_FROMAT",
        "CALLBOARD_GRPC",
        "CALLBOARD_SERVER",
        "CALLBOARD_TLS_CA",
        "CALLBOARD_TLS_SERVER_NAME",
        "CALLBOARD_SERVICE_HOST",
        "CALLBOARD_SERVICE_PORT",
        "CALLBOARD_PORT",
        "CALLBOARD_PORT_8502_TCP",
        "CALLBOARD_INTEROP_CACHE",
        "PATH",
    ];
    let found = super::environment::misspelt(names.into_iter().map(str::to_owned));
    let meant: Vec<_> = found.iter().map(|(name, meant)| (name.as_str(), meant.as_str())).collect();
    assert_eq!(meant, [("CALLBOARD_GRCP", "CALLBOARD_GRPC"), ("CALLBOARD_LOG_FROMAT", "CALLBOARD_LOG_FORMAT")]);
}

#[test]
fn every_host_name_becomes_a_valid_node_name() {
    for (host, name) in [("web-1.Example", "web-1.Example"), ("_x y", "x-y"), ("", "callboard"), ("höst.", "h-st")] {
        assert_eq!(node_name(host), name);
        assert!(value::node_name(name).is_ok());
    }
    assert!(value::node_name(&host_name()).is_ok());
}
