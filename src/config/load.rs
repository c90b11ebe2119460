//! Putting file, environment and flags together.

use super::{
    ConfigError, ConfigErrors, ServerConfig, Setting, default_memory, error::nearest, file, settings::SETTINGS, show,
};
use crate::sys::Disk;
use std::{collections::BTreeMap, fmt, path::PathBuf};

/// Variables of the name's family that are not the server's settings: the file's path, and the client commands' own.
const OTHER_VARIABLES: [&str; 2] = ["SLUICE_CONFIG", "SLUICE_URL"];

/// What was given from outside.
#[derive(Debug, Default)]
pub struct Sources {
    /// `--config`; else `SLUICE_CONFIG` names the file, else there is none.
    pub file: Option<PathBuf>,
    /// The process's variables; only those that begin with `SLUICE_` count.
    pub environment: Vec<(String, String)>,
    /// Flags, by the settings' names.
    pub flags: BTreeMap<&'static str, String>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// File and line.
    File(String),
    /// The variable.
    Environment(String),
    /// The flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(text) | Self::Environment(text) | Self::Flag(text) => f.write_str(text),
        }
    }
}

/// The configuration in effect, and where each value of it comes from.
#[derive(Debug, Clone)]
pub struct EffectiveConfig {
    /// The values.
    pub config: ServerConfig,
    /// Where the setting of the same place in [`SETTINGS`] comes from.
    pub origins: Vec<Origin>,
}

impl EffectiveConfig {
    /// It all as TOML that can be read back, each value with where it comes from; secrets are left out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        show::to_toml(self)
    }
}

/// Reads, merges and checks.
///
/// # Errors
/// Everything that is wrong, not only the first.
pub fn load(sources: &Sources, disk: &dyn Disk) -> Result<EffectiveConfig, ConfigErrors> {
    merge(sources, ServerConfig::with_memory(default_memory(disk)), |path| {
        let bytes = disk.read(path).map_err(|e| e.kind())?;
        String::from_utf8(bytes).map_err(|_| std::io::ErrorKind::InvalidData)
    })
}

/// [`load`] over given defaults and a given way to read the file.
pub(super) fn merge(
    sources: &Sources,
    defaults: ServerConfig,
    read: impl Fn(&std::path::Path) -> Result<String, std::io::ErrorKind>,
) -> Result<EffectiveConfig, ConfigErrors> {
    let mut merged = Merged {
        effective: EffectiveConfig { config: defaults, origins: vec![Origin::Default; SETTINGS.len()] },
        errors: Vec::new(),
    };
    let named = |name: &str| sources.environment.iter().find(|(n, _)| n == name).map(|(_, value)| value);
    if let Some(path) = sources.file.clone().or_else(|| named("SLUICE_CONFIG").map(PathBuf::from)) {
        let shown = path.to_string_lossy().into_owned();
        let text = read(&path).map_err(|kind| ConfigError::Unreadable { path: shown.clone(), kind })?;
        match file::parse(&shown, &text) {
            Ok(entries) => {
                for entry in entries {
                    merged.set(entry.setting, entry.setting.name, &entry.text, &entry.place, |place| {
                        Origin::File(place.to_owned())
                    });
                }
            }
            Err(errors) => merged.errors.extend(errors),
        }
    }
    for (variable, value) in &sources.environment {
        if !variable.starts_with("SLUICE_") || OTHER_VARIABLES.contains(&variable.as_str()) || is_service_link(variable)
        {
            continue;
        }
        match SETTINGS.iter().find(|s| s.env() == *variable) {
            Some(setting) => merged.set(setting, variable, value, "environment", |_| {
                Origin::Environment(format!("environment {variable}"))
            }),
            None => merged.errors.push(ConfigError::Unknown {
                place: "environment".to_owned(),
                name: variable.clone(),
                nearest: nearest(variable, Setting::env),
            }),
        }
    }
    for (name, value) in &sources.flags {
        let setting = SETTINGS.iter().find(|s| s.name == *name).expect("flags are made from the table of settings");
        let flag = format!("--{}", setting.flag());
        merged.set(setting, &flag, value, "flag", |_| Origin::Flag(format!("flag {flag}")));
    }
    if merged.errors.is_empty() {
        merged.errors.extend(conflicts(&merged.effective.config));
    }
    if merged.errors.is_empty() { Ok(merged.effective) } else { Err(ConfigErrors(merged.errors)) }
}

struct Merged {
    effective: EffectiveConfig,
    errors: Vec<ConfigError>,
}

impl Merged {
    fn set(&mut self, setting: &'static Setting, name: &str, text: &str, place: &str, origin: impl Fn(&str) -> Origin) {
        let index = SETTINGS.iter().position(|s| s.name == setting.name).expect("it is from the table");
        match setting.set(&mut self.effective.config, text) {
            Some(()) => self.effective.origins[index] = origin(place),
            None => self.errors.push(ConfigError::Invalid {
                place: place.to_owned(),
                name: name.to_owned(),
                value: if setting.secret { "…".to_owned() } else { text.to_owned() },
                expected: setting.expected,
            }),
        }
    }
}

/// Kubernetes puts the addresses of a service called `sluice` into every container beside it, under these names.
fn is_service_link(variable: &str) -> bool {
    variable == "SLUICE_SERVICE_HOST"
        || variable.starts_with("SLUICE_SERVICE_PORT")
        || variable == "SLUICE_PORT"
        || variable.strip_prefix("SLUICE_PORT_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn conflicts(config: &ServerConfig) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    if config.http.is_none() && config.kafka.is_none() && config.peer.is_none() {
        errors.push(ConfigError::Conflict("http, kafka and peer are all off: open one of them".to_owned()));
    }
    if config.limits.batch_bytes < config.limits.record_bytes {
        errors.push(ConfigError::Conflict(format!(
            "limits.batch-bytes ({}) is below limits.record-bytes ({}): a batch must hold at least one record",
            config.limits.batch_bytes, config.limits.record_bytes
        )));
    }
    if config.log.segment_bytes < config.limits.record_bytes {
        errors.push(ConfigError::Conflict(format!(
            "log.segment-bytes ({}) is below limits.record-bytes ({}): a segment must hold at least one record",
            config.log.segment_bytes, config.limits.record_bytes
        )));
    }
    if let (Some(needed), Some(replicas)) = (config.min_insync_replicas, config.default_replication_factor)
        && needed > i32::from(replicas)
    {
        errors.push(ConfigError::Conflict(format!(
            "min-insync-replicas ({needed}) is above default-replication-factor ({replicas}): nothing could be written"
        )));
    }
    let doors = [("http", config.http), ("kafka", config.kafka), ("peer", config.peer)];
    for (i, (name, address)) in doors.iter().enumerate() {
        let same = doors[..i].iter().find(|(_, other)| other == address && address.is_some_and(|a| a.port() != 0));
        if let Some((other, _)) = same {
            errors.push(ConfigError::Conflict(format!("{other} and {name} have the same address: change one")));
        }
    }
    errors
}
