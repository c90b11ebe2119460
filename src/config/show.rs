//! The configuration in effect, written out as TOML.

use super::{EffectiveConfig, Kind, ServerConfig, Setting, settings::SETTINGS};
use std::fmt::Write as _;

/// Column at which the notes of where a value comes from begin, where the value leaves room.
const NOTE_COLUMN: usize = 44;

pub(super) fn to_toml(effective: &EffectiveConfig) -> String {
    let mut out = String::new();
    let mut table = "";
    for (setting, origin) in SETTINGS.iter().zip(&effective.origins) {
        let (group, key) = setting.name.split_once('.').unwrap_or(("", setting.name));
        if group != table {
            let _ = write!(out, "\n[{group}]\n"); // writing to a string does not fail
            table = group;
        }
        let line = match shown(setting, &effective.config) {
            Some(value) => format!("{key} = {value}"),
            None => format!("# {key}: {}", setting.automatic),
        };
        let _ = writeln!(out, "{line:<NOTE_COLUMN$} # {origin}");
    }
    out
}

/// The value as TOML; a secret's is not shown.
pub(super) fn shown(setting: &Setting, config: &ServerConfig) -> Option<String> {
    let text = setting.get(config)?;
    if setting.secret {
        return Some("\"…\"".to_owned());
    }
    Some(match setting.kind {
        Kind::Number | Kind::Boolean => text,
        Kind::Text => toml::Value::String(text).to_string(),
        Kind::List => {
            let items = text.split(',').filter(|t| !t.is_empty()).map(|t| toml::Value::String(t.to_owned()));
            toml::Value::Array(items.collect()).to_string()
        }
    })
}
