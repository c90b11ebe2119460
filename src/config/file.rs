//! The TOML file: parsed, flattened to `name → text`, with the line of each.

use super::{ConfigError, Setting, error::nearest, settings::SETTINGS};
use toml::de::{DeTable, DeValue};

/// A setting as the file has it.
pub(super) struct FileEntry {
    pub setting: &'static Setting,
    pub text: String,
    /// File and line.
    pub place: String,
}

/// Deepest table; the settings have two levels.
const MAX_DEPTH: usize = 4;

/// Reads the file's text. Unknown names and values of the wrong shape are all collected.
pub(super) fn parse(path: &str, text: &str) -> Result<Vec<FileEntry>, Vec<ConfigError>> {
    let table = DeTable::parse(text).map_err(|e| {
        vec![ConfigError::Syntax { path: path.to_owned(), message: e.to_string().trim_end().to_owned() }]
    })?;
    let mut reader = Reader { path, text, entries: Vec::new(), errors: Vec::new() };
    reader.table("", table.get_ref(), 0);
    if reader.errors.is_empty() { Ok(reader.entries) } else { Err(reader.errors) }
}

struct Reader<'a> {
    path: &'a str,
    text: &'a str,
    entries: Vec<FileEntry>,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>, depth: usize) {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            let line = 1 + self.text[..key.span().start.min(self.text.len())].matches('\n').count();
            let place = format!("{}:{line}", self.path);
            let setting = SETTINGS.iter().find(|s| s.name == name);
            match (setting, value.get_ref()) {
                (None, DeValue::Table(inner)) if depth < MAX_DEPTH => {
                    self.table(&format!("{name}."), inner, depth + 1);
                }
                (None, _) => {
                    let nearest = nearest(&name, |s| s.name.to_owned());
                    self.errors.push(ConfigError::Unknown { place, name, nearest });
                }
                (Some(setting), value) => match scalar(value) {
                    Some(text) => self.entries.push(FileEntry { setting, text, place }),
                    None => self.errors.push(ConfigError::Invalid {
                        place,
                        name,
                        value: format!("a {}", value.type_str()),
                        expected: setting.expected,
                    }),
                },
            }
        }
    }
}

/// The text of a value; an array's texts are joined by commas.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(n) => i64::from_str_radix(&n.as_str().replace('_', ""), n.radix()).ok().map(|n| n.to_string()),
        DeValue::Boolean(b) => Some(b.to_string()),
        DeValue::Array(items) => items
            .iter()
            .map(|item| item.get_ref().as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .map(|texts| texts.join(",")),
        _ => None,
    }
}
