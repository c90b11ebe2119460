use super::*;
use std::{collections::BTreeSet, path::Path};

const MEMORY: u64 = 6 << 30;

fn merge(file: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<EffectiveConfig, String> {
    let sources = Sources {
        file: (!file.is_empty()).then(|| PathBuf::from("s.toml")),
        environment: environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        flags: flags.iter().map(|(n, v)| (*n, (*v).to_owned())).collect(),
    };
    load::merge(&sources, ServerConfig::with_memory(MEMORY), |path| {
        assert_eq!(path, Path::new("s.toml"));
        Ok(file.to_owned())
    })
    .map_err(|e| e.to_string())
}

/// A value for each setting that is not its default, as text.
fn other_value(setting: &Setting) -> &'static str {
    match setting.name {
        "http" | "kafka" | "peer" => "10.0.0.1:0",
        "advertised-http" | "advertised-kafka" | "advertised-peer" => "a-1.example.org:90",
        "data" | "ready-file" => "/x/y",
        "node-id" | "default-partitions" | "groups.partitions" | "groups.max-size" => "7",
        "default-replication-factor" => "2",
        "min-insync-replicas" => "1",
        "auto-create-topics" => "false",
        "flush" => "interval",
        "memory" => "67108864",
        "log-format" => "json",
        "log-level" => "warn,sluice::log=debug",
        "allowed-origins" => "https://a.org,http://localhost:3000",
        "allowed-hosts" => "a.org,b.example",
        "log.segment-bytes" => "33554432",
        "groups.min-session-timeout-ms" | "groups.max-session-timeout-ms" => "4000",
        "groups.initial-rebalance-delay-ms" | "groups.offsets-retention-ms" => "5000",
        "log.flush-interval-ms" | "log.idempotency-retention-ms" => "250",
        "log.idempotency-keys" => "50",
        "limits.record-bytes" => "2097152",
        "limits.batch-bytes" => "4194304",
        name => panic!("no test value for {name}"),
    }
}

fn as_toml(setting: &Setting, text: &str) -> String {
    match setting.kind {
        Kind::Number | Kind::Boolean => format!("{} = {text}", setting.name),
        Kind::Text => format!("{} = \"{text}\"", setting.name),
        Kind::List => format!("{} = [\"{}\"]", setting.name, text.replace(',', "\", \"")),
    }
}

#[test]
fn every_setting_is_read_from_the_three_places_and_shown() {
    for (i, setting) in SETTINGS.iter().enumerate() {
        let text = other_value(setting);
        assert_ne!(setting.get(&ServerConfig::with_memory(MEMORY)).as_deref(), Some(text), "{}", setting.name);
        let by_file = merge(&as_toml(setting, text), &[], &[]).unwrap();
        let by_env = merge("", &[(&setting.env(), text)], &[]).unwrap();
        let by_flag = merge("", &[], &[(setting.name, text)]).unwrap();
        assert_eq!(setting.get(&by_file.config).as_deref(), Some(text));
        assert_eq!(by_file.config, by_env.config);
        assert_eq!(by_file.config, by_flag.config);
        assert_eq!(by_file.origins[i], Origin::File("s.toml:1".to_owned()));
        assert!(by_env.to_toml().contains(&setting.env()), "{}", by_env.to_toml());
        assert!(by_flag.to_toml().contains(&format!("--{}", setting.flag())));
    }
}

#[test]
fn names_are_unique_in_each_place() {
    let flags: BTreeSet<_> = SETTINGS.iter().map(Setting::flag).collect();
    let variables: BTreeSet<_> = SETTINGS.iter().map(Setting::env).collect();
    assert_eq!((flags.len(), variables.len()), (SETTINGS.len(), SETTINGS.len()));
    assert!(SETTINGS.iter().any(|s| s.flag() == "log-segment-bytes" && s.env() == "SLUICE_LOG_SEGMENT_BYTES"));
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "http = '127.0.0.1:1'\nkafka = '127.0.0.1:2'\npeer = '127.0.0.1:3'";
    let env = [("SLUICE_KAFKA", "127.0.0.1:20"), ("SLUICE_PEER", "127.0.0.1:30")];
    let e = merge(file, &env, &[("peer", "off")]).unwrap();
    let port = |a: Option<SocketAddr>| a.map(|a| a.port());
    assert_eq!([port(e.config.http), port(e.config.kafka), port(e.config.peer)], [Some(1), Some(20), None]);
    assert_eq!(e.origins[0], Origin::File("s.toml:1".to_owned()));
    assert_eq!(e.origins[1], Origin::Environment("environment SLUICE_KAFKA".to_owned()));
    assert_eq!(e.origins[2], Origin::Flag("flag --peer".to_owned()));
}

#[test]
fn an_unknown_name_is_refused_with_the_nearest_known_one() {
    let e = merge("data = 'x'\n\n[log]\nsegmnt-bytes = 1", &[("SLUICE_HTPP", "1")], &[]).unwrap_err();
    assert!(e.contains("s.toml:4: there is no setting 'log.segmnt-bytes'; did you mean 'log.segment-bytes'?"), "{e}");
    assert!(e.contains("environment: there is no setting 'SLUICE_HTPP'; did you mean 'SLUICE_HTTP'?"), "{e}");
    let e = merge("[nope]\na = 1\n[http]\nport = 2", &[], &[]).unwrap_err();
    assert!(e.contains("'nope.a'") && e.contains("s.toml:3: 'a table' is no value for 'http'"), "{e}");
}

#[test]
fn variables_that_are_not_the_servers_are_left_alone() {
    let env = [
        ("SLUICE_URL", "http://x"),
        ("SLUICE_SERVICE_HOST", "10.0.0.1"),
        ("SLUICE_SERVICE_PORT_HTTP", "8080"),
        ("SLUICE_PORT", "tcp://10.0.0.1:8080"),
        ("SLUICE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("HTTP", "x"),
    ];
    assert_eq!(merge("", &env, &[]).unwrap().config, ServerConfig::with_memory(MEMORY));
}

#[test]
fn bad_values_say_what_to_write_and_are_all_named() {
    let e = merge("http = 8080", &[("SLUICE_FLUSH", "always")], &[("log-level", "inof")]).unwrap_err();
    assert!(e.contains("s.toml:1: '8080' is no value for 'http': write IP:PORT"), "{e}");
    assert!(e.contains("environment: 'always' is no value for 'SLUICE_FLUSH': write commit, interval or os"), "{e}");
    assert!(e.contains("flag: 'inof' is no value for '--log-level': write off, error"), "{e}");
    for setting in SETTINGS {
        for bad in ["", "no such\u{0}value", "-1:"] {
            let free_text = matches!(setting.name, "data" | "ready-file") && !bad.is_empty();
            if !(free_text || setting.kind == Kind::List && bad.is_empty()) {
                assert!(merge("", &[], &[(setting.name, bad)]).is_err(), "{} = {bad:?}", setting.name);
            }
        }
    }
    assert!(merge("http = ", &[], &[]).unwrap_err().starts_with("s.toml: "));
    assert!(merge("", &[], &[("allowed-origins", "*")]).is_err());
}

#[test]
fn what_does_not_go_together_is_refused() {
    let e = merge("", &[], &[("http", "off"), ("kafka", "off"), ("peer", "off")]).unwrap_err();
    assert!(e.contains("all off"), "{e}");
    assert!(merge("limits.batch-bytes = 2000", &[], &[]).unwrap_err().contains("limits.record-bytes"));
    assert!(merge("kafka = '127.0.0.1:8080'", &[], &[]).unwrap_err().contains("http and kafka"));
    assert!(merge("min-insync-replicas = 3\ndefault-replication-factor = 2", &[], &[]).is_err());
}

#[test]
fn what_is_shown_reads_back_to_the_same() {
    let text = "http = 'off'\nmemory = '1GiB'\nallowed-origins = ['https://a.org']\n[limits]\nrecord-bytes = 0x100000";
    let e = merge(text, &[], &[("node-id", "4")]).unwrap();
    assert_eq!((e.config.memory, e.config.limits.record_bytes), (1 << 30, 1 << 20));
    let shown = e.to_toml();
    assert_eq!(merge(&shown, &[], &[]).unwrap().config, e.config, "{shown}");
    assert!(shown.contains("# ready-file: none"), "{shown}");
}

#[test]
fn a_secret_is_not_shown() {
    let template = &SETTINGS[6];
    let mut secret = *template;
    secret.secret = true;
    let config = merge("", &[], &[("data", "hunter2")]).unwrap().config;
    assert!(show::shown(template, &config).unwrap().contains("hunter2"));
    assert_eq!(show::shown(&secret, &config).unwrap(), "\"…\"");
}

#[test]
fn defaults_follow_the_size_of_the_cluster() {
    let config = ServerConfig::with_memory(MEMORY);
    let of = |n| (config.replication_factor(n), config.topic_defaults(n).min_insync_replicas);
    assert_eq!([of(1), of(2), of(3), of(5)], [(1, 1), (2, 1), (3, 2), (3, 2)]);
}
